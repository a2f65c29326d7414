//! Numbers → the shapes and the ticks of a chart. Pure.
//!
//! A picture is 1000 wide and 100 high, from the upper left corner, and is stretched to its place.

use providers::Usd;
use serde::Serialize;

/// A chart.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) legend: Vec<Key>,
    y: Vec<Tick>,
    x: Vec<Tick>,
    seams: Vec<String>,
    shapes: Vec<Shape>,
    /// Seconds of a step. Empty where the values aren't of steps.
    step: String,
    /// What the values are, or what each is of.
    unit: String,
    /// Where the account has the values.
    at: String,
    values: String,
}

/// What a line stands for.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Key {
    pub(super) class: &'static str,
    pub(super) name: String,
}

/// A number beside a chart, and where: in hundredths of its length.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Tick {
    at: String,
    text: String,
}

#[derive(Clone, Debug, Serialize)]
struct Shape {
    class: &'static str,
    path: String,
}

/// The time that all charts of a run have in common.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    pub(super) seconds: f64,
    pub(super) step: f64,
    pub(super) seams: Vec<f64>,
}

/// What a run was thought to come to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lines {
    pub(super) predicted: Option<(f64, Usd)>,
    pub(super) budget: Option<Usd>,
}

/// How fast something was.
pub(super) fn speed(scale: &Scale, title: &str, unit: &str, at: String, rates: &[f64]) -> Chart {
    let most = rates.iter().copied().fold(0.0, f64::max);
    let (top, ticks) = y_ticks(most, brief);
    let mut edge = String::new();
    for (step, rate) in rates.iter().enumerate() {
        let begin = if step == 0 { "M0 " } else { "V" };
        let end = share(step + 1, rates.len()) * 1000.0;
        edge += &[begin, &y(*rate, top), "H", &short(end)].concat();
    }
    let area = format!("{edge}V100H0Z");
    let shapes = vec![Shape { class: "area", path: area }, Shape { class: "line", path: edge }];
    let values = rates.iter().map(f64::to_string).collect::<Vec<_>>().join(" ");
    let (title, unit, step) = (title.to_owned(), unit.to_owned(), scale.step.to_string());
    Chart { title, y: ticks, shapes, step, unit, at, values, ..of_time(scale) }
}

/// What was paid by when.
pub(super) fn spent(scale: &Scale, at: String, paid: &[Usd], beside: Lines) -> Chart {
    let dollars = |usd: Usd| usd.0 as f64 / 1e6;
    let predicted = beside.predicted.map(|(seconds, usd)| (seconds, dollars(usd)));
    let budget = beside.budget.map(dollars);
    let most = paid.iter().copied().map(dollars).fold(0.0, f64::max);
    let most = [Some(most), predicted.map(|(_, usd)| usd), budget].into_iter().flatten();
    let (top, ticks) = y_ticks(most.fold(0.0, f64::max), money);
    let point = |(step, usd): (usize, &Usd)| {
        let begin = if step == 0 { "M" } else { "L" };
        let x = short(share(step, paid.len().saturating_sub(1)) * 1000.0);
        [begin, &x, " ", &y(dollars(*usd), top)].concat()
    };
    let line: String = paid.iter().enumerate().map(point).collect();
    let mut shapes = vec![Shape { class: "area", path: format!("{line}L1000 100L0 100Z") }];
    if let Some(usd) = budget {
        shapes.push(Shape { class: "budget", path: format!("M0 {}H1000", y(usd, top)) });
    }
    if let Some((seconds, usd)) = predicted {
        // To where it was to end, or to where the picture does.
        let end = seconds.min(scale.seconds).max(f64::MIN_POSITIVE);
        let reached = usd * end / seconds.max(end);
        let x = short(end / scale.seconds.max(f64::MIN_POSITIVE) * 1000.0);
        let path = format!("M0 100L{x} {}H1000", y(reached, top));
        shapes.push(Shape { class: "predicted", path });
    }
    shapes.push(Shape { class: "line", path: line });
    let values = paid.iter().map(|usd| usd.0.to_string()).collect::<Vec<_>>().join(" ");
    let (title, unit, step) = ("Paid".to_owned(), "$".to_owned(), scale.step.to_string());
    Chart { title, y: ticks, shapes, step, unit, at, values, ..of_time(scale) }
}

/// How many there are of each.
pub(super) fn bars(title: &str, at: String, counts: &[(String, u64)]) -> Chart {
    let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(0);
    let (top, ticks) = y_ticks(most as f64, brief);
    let bar = |(at, (_, count)): (usize, &(String, u64))| {
        let (begin, end) = (share(at, counts.len()) * 1000.0, share(at + 1, counts.len()) * 1000.0);
        // A little room between them.
        let room = (end - begin) / 12.0;
        let (begin, end) = (short(begin + room), short(end - room));
        format!("M{begin} 100V{}H{end}V100Z", y(*count as f64, top))
    };
    let path = counts.iter().enumerate().map(bar).collect();
    let every = counts.len().div_ceil(6).max(1);
    let named = counts.iter().enumerate().step_by(every);
    let x = named.map(|(at, (name, _))| Tick {
        at: short((share(at, counts.len()) + share(at + 1, counts.len())) * 50.0),
        text: name.clone(),
    });
    Chart {
        title: title.to_owned(),
        x: x.collect(),
        y: ticks,
        shapes: vec![Shape { class: "bars", path }],
        unit: counts.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join("|"),
        values: counts.iter().map(|(_, count)| count.to_string()).collect::<Vec<_>>().join(" "),
        at,
        ..Chart::default()
    }
}

fn of_time(scale: &Scale) -> Chart {
    let seconds = scale.seconds.max(f64::MIN_POSITIVE);
    let seams = scale.seams.iter().map(|seam| short(seam / seconds * 1000.0)).collect();
    Chart { x: x_ticks(seconds), seams, ..Chart::default() }
}

fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// How far from the top.
fn y(value: f64, top: f64) -> String {
    short(100.0 - value / top * 100.0)
}

/// A place, to a tenth.
pub(super) fn short(number: f64) -> String {
    let tenths = (number * 10.0).round() / 10.0;
    // Not the minus of a zero.
    (tenths + 0.0).to_string()
}

/// Round numbers from zero to at least `most`, and the highest.
fn y_ticks(most: f64, text: impl Fn(f64) -> String) -> (f64, Vec<Tick>) {
    let most = if 0.0 < most { most } else { 1.0 };
    let power = 10_f64.powf((most / 3.0).log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * power);
    let step = steps.into_iter().find(|step| most <= step * 4.0).unwrap_or(10.0 * power);
    let count = (most / step).ceil().max(1.0);
    let top = step * count;
    let tick = |at: u32| Tick {
        at: short(f64::from(at) / count * 100.0),
        text: if at == 0 { "0".to_owned() } else { text(f64::from(at) * step) },
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is 4 at most")]
    let ticks = (0..=count as u32).map(tick).collect();
    (top, ticks)
}

/// Round times within these seconds.
fn x_ticks(seconds: f64) -> Vec<Tick> {
    const STEPS: [(f64, f64, &str); 20] = [
        (0.1, 1.0, "s"),
        (0.2, 1.0, "s"),
        (0.5, 1.0, "s"),
        (1.0, 1.0, "s"),
        (2.0, 1.0, "s"),
        (5.0, 1.0, "s"),
        (10.0, 1.0, "s"),
        (20.0, 1.0, "s"),
        (60.0, 60.0, "min"),
        (120.0, 60.0, "min"),
        (300.0, 60.0, "min"),
        (600.0, 60.0, "min"),
        (1200.0, 60.0, "min"),
        (3600.0, 3600.0, "h"),
        (7200.0, 3600.0, "h"),
        (14_400.0, 3600.0, "h"),
        (28_800.0, 3600.0, "h"),
        (86_400.0, 86_400.0, "d"),
        (172_800.0, 86_400.0, "d"),
        (604_800.0, 86_400.0, "d"),
    ];
    let step = STEPS.into_iter().find(|(step, ..)| seconds / step <= 6.5);
    let (step, unit, name) = step.unwrap_or((seconds / 4.0, 86_400.0, "d"));
    // The last would stand out beyond the edge.
    let ticks = (0..7).map(|tick| f64::from(tick) * step).take_while(|at| *at <= seconds * 0.98);
    let tick = |at: f64| Tick {
        at: short(at / seconds * 100.0),
        text: if at == 0.0 { "0".to_owned() } else { format!("{} {name}", short(at / unit)) },
    };
    ticks.map(tick).collect()
}

/// A number beside a line: `0.25`, `40`, `1.5k`.
fn brief(number: f64) -> String {
    let (number, unit) = match number {
        small if small < 1e3 => (small, ""),
        some if some < 1e6 => (some / 1e3, "k"),
        many => (many / 1e6, "M"),
    };
    // As many digits as a step of a round number has.
    let digits = format!("{number:.4}");
    format!("{}{unit}", digits.trim_end_matches('0').trim_end_matches('.'))
}

/// Dollars beside a line.
fn money(dollars: f64) -> String {
    match dollars {
        small if small < 0.01 => format!("${small:.4}"),
        cents if cents < 1.0 => format!("${cents:.2}"),
        more if more < 10.0 && more.fract() != 0.0 => format!("${more:.2}"),
        more => format!("${more:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(ticks: &[Tick]) -> Vec<&str> {
        ticks.iter().map(|tick| tick.text.as_str()).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        for (most, expected) in [
            (0.0, "0 0.25 0.5 0.75 1"),
            (29.0, "0 10 20 30"),
            (61_000.0, "0 20k 40k 60k 80k"),
            (0.07, "0 0.02 0.04 0.06 0.08"),
        ] {
            let (top, ticks) = y_ticks(most, brief);
            assert_eq!(texts(&ticks).join(" "), expected, "{most}");
            assert!(most <= top && ticks.last().unwrap().at == "100");
        }
        assert_eq!(texts(&y_ticks(70.0, money).1), ["0", "$20", "$40", "$60", "$80"]);
        assert_eq!(texts(&y_ticks(0.03, money).1), ["0", "$0.01", "$0.02", "$0.03"]);
        for (seconds, expected) in [
            (2.0, "0 0.5 s 1 s 1.5 s"),
            (600.0, "0 2 min 4 min 6 min 8 min"),
            (137_160.0, "0 8 h 16 h 24 h 32 h"),
            (3e7, "0 86.8 d 173.6 d 260.4 d"),
        ] {
            assert_eq!(texts(&x_ticks(seconds)).join(" "), expected, "{seconds}");
        }
    }

    #[test]
    fn a_rate_is_a_step_as_wide_as_it_lasted() {
        let scale = Scale { seconds: 4.0, step: 1.0, seams: vec![2.0] };
        let chart = speed(&scale, "Prompts", "prompts/s", "/x".into(), &[0.0, 2.0, 1.0, 4.0]);
        assert_eq!(chart.shapes[1].path, "M0 100H250V50H500V75H750V0H1000");
        assert_eq!((chart.values.as_str(), chart.seams), ("0 2 1 4", vec!["500".to_owned()]));
    }

    #[test]
    fn a_prediction_ends_where_it_said_or_with_the_picture() {
        let scale = Scale { seconds: 100.0, step: 50.0, seams: Vec::new() };
        let paid = [0, 1_000_000, 2_000_000].map(Usd);
        for (seconds, expected) in [(50.0, "M0 100L500 0H1000"), (200.0, "M0 100L1000 50H1000")] {
            let beside = Lines { predicted: Some((seconds, Usd(4_000_000))), budget: None };
            let chart = spent(&scale, "/x".into(), &paid, beside);
            assert_eq!(chart.shapes[1].path, expected);
            assert_eq!(chart.shapes[2].path, "M0 100L500 75L1000 50");
        }
    }

    #[test]
    fn a_run_of_nothing_can_be_drawn() {
        let scale = Scale { seconds: 0.0, step: 0.0, seams: Vec::new() };
        let chart = spent(&scale, String::new(), &[Usd(0)], Lines::default());
        let chart = [chart, speed(&scale, "", "", String::new(), &[0.0])];
        let bars = bars("", String::new(), &[]);
        let text = serde_json::to_string(&(chart, bars)).unwrap();
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }
}
