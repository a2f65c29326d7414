//! From a store into a file.

use super::{ObjectError, Place, file_error};
use futures_util::TryStreamExt;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};
use std::{path::Path, time::Duration};
use tokio::{
    fs::File,
    io::{AsyncWriteExt, BufWriter},
    time::sleep,
};

/// How often in a row a transfer may break without a single byte more.
const BREAKS: u32 = 8;

/// The first pause before it goes on; it doubles with each break.
const PAUSE: Duration = Duration::from_millis(200);

impl Place {
    /// Copies the object into a file, and goes on where the connection breaks.
    pub async fn fetch(&self, to: &Path) -> Result<(), ObjectError> {
        let about = self.store.head(&self.path()?).await;
        let about = about.map_err(|error| self.failed("fetched", error))?;
        let file = File::create(to).await.map_err(|error| file_error(to, "made", error))?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        let (mut done, mut breaks) = (0, 0);
        while done < about.size {
            let before = done;
            match self.fetch_on(&about, &mut file, &mut done, to).await {
                Ok(()) if done == about.size => {}
                // It ended too soon, or the store is out of breath.
                Ok(()) | Err(ObjectError::Store { .. }) if breaks < BREAKS => {
                    breaks = if before < done { 0 } else { breaks + 1 };
                    sleep(PAUSE * 2_u32.pow(breaks)).await;
                }
                Ok(()) => return Err(ObjectError::Changed(self.url.clone())),
                Err(error) => return Err(error),
            }
        }
        let ended = async {
            file.flush().await?;
            file.get_ref().sync_all().await
        };
        ended.await.map_err(|error| file_error(to, "written", error))
    }

    /// Copies what is left of it, until it breaks.
    async fn fetch_on(
        &self,
        about: &ObjectMeta,
        file: &mut BufWriter<File>,
        done: &mut u64,
        to: &Path,
    ) -> Result<(), ObjectError> {
        let failed = |error| self.failed("fetched", error);
        let options = GetOptions {
            // Never the end of one version behind the beginning of another.
            if_match: about.e_tag.clone(),
            range: (0 < *done).then_some(GetRange::Offset(*done)),
            ..GetOptions::default()
        };
        let got = self.store.get_opts(&about.location, options).await.map_err(failed)?;
        let mut bytes = got.into_stream();
        while let Some(part) = bytes.try_next().await.map_err(failed)? {
            file.write_all(&part).await.map_err(|error| file_error(to, "written", error))?;
            *done += part.len() as u64;
        }
        Ok(())
    }
}
