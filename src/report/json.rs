//! Events as JSON, one a line, on standard output. Their shape is that of [`Event`].

use super::{Reporter, out};
use crate::{
    clock,
    event::{Event, Line, VERSION},
};

pub(super) struct Json;

impl Reporter for Json {
    fn hear(&mut self, event: &Event) {
        let line = Line { v: VERSION, at: clock::now(), event };
        out(&serde_json::to_string(&line).expect("an event has only plain values"));
    }
}
