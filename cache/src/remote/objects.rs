//! Getting and putting objects: `object_store` without its asynchrony, with limits on how long it may take.

use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io::{Read, Write};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use futures_util::{StreamExt, stream};
use object_store::path::Path as Name;
use object_store::{
    Error, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    WriteMultipart,
};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::address;
use super::error::{RemoteError, Trouble};
use super::shown::Secrets;
use crate::{Digest, FileEntry};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take until something that was sent is taken.
const SENDING: Duration = Duration::from_secs(60);
/// Bytes per second that a large file has to come or go with.
const SLOWEST: u64 = 100_000;
/// So many requests for small objects go at once.
const AT_ONCE: usize = 64;
/// Larger files go in parts.
const PART: usize = 8 << 20;
/// So many parts of a file are on their way at once.
const PARTS_AT_ONCE: usize = 3;
/// A service takes no more parts of one file than ten thousand.
const MOST_PARTS: u64 = 9_000;
/// No record and no manifest is larger.
const SMALL: u64 = 256 << 20;

/// What to do where there is an object of the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It has the same content, and stays.
    New,
    /// It was found to be wrong.
    Replace,
}

/// The objects of a remote.
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: Name,
    /// None while it goes.
    runtime: Option<Runtime>,
    stopped: watch::Sender<bool>,
    secrets: Secrets,
    pub(super) name: String,
}

/// The store's own description has credentials in it.
impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Objects").field(&self.name).finish()
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        // What hangs is not waited for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Objects {
    pub(super) fn open(text: &str) -> Result<Self, RemoteError> {
        let secrets = Secrets::of_environment();
        let place = address::open(text, &secrets)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("remote")
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| RemoteError {
            url: place.name.clone(),
            reason: format!("cannot start a thread: {error}"),
        })?;
        Ok(Self {
            store: place.store,
            prefix: place.prefix,
            runtime: Some(runtime),
            stopped: watch::Sender::new(false),
            secrets,
            name: place.name,
        })
    }

    /// Ends all that is going on; nothing is asked any more.
    pub(super) fn stop(&self) {
        self.stopped.send_replace(true);
    }

    fn at(&self, name: &str) -> Name {
        name.split('/')
            .fold(self.prefix.clone(), |at, part| at.join(part))
    }

    fn wait<T>(&self, future: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
        match &self.runtime {
            Some(runtime) => runtime.block_on(future),
            None => Err(Trouble::Stopped),
        }
    }

    /// Small objects, several at once, in the order of `names`. After one that fails, no more are asked for.
    pub(super) fn get_each(&self, names: &[String]) -> Vec<Result<Vec<u8>, Trouble>> {
        self.each(names, |name| self.small(name))
    }

    /// The sizes of objects, as [`Objects::get_each`].
    pub(super) fn sizes(&self, names: &[String]) -> Vec<Result<u64, Trouble>> {
        self.each(names, |name| self.size_now(name))
    }

    fn each<'a, T, F: Future<Output = Result<T, Trouble>>>(
        &self,
        names: &'a [String],
        ask: impl Fn(&'a str) -> F,
    ) -> Vec<Result<T, Trouble>> {
        let failed = std::cell::Cell::new(false);
        let one = async |name| {
            if failed.get() {
                return Err(Trouble::Stopped);
            }
            let answer = ask(name).await;
            failed.set(failed.get() || matches!(answer, Err(Trouble::Failed(_))));
            answer
        };
        let all = stream::iter(names).map(|name| one(name)).buffered(AT_ONCE);
        let all = self.wait(async { Ok(all.collect().await) });
        all.unwrap_or_default()
    }

    pub(super) fn get(&self, name: &str) -> Result<Vec<u8>, Trouble> {
        self.wait(self.small(name))
    }

    async fn small(&self, name: &str) -> Result<Vec<u8>, Trouble> {
        let at = self.at(name);
        let too_large = || Trouble::Wrong(format!("{name} is too large"));
        let read = async {
            let found = self
                .store
                .get(&at)
                .await
                .map_err(|error| self.got(&error))?;
            if found.meta.size > SMALL {
                return Err(too_large());
            }
            let mut bytes = Vec::new();
            let mut pieces = found.into_stream();
            while let Some(piece) = pieces.next().await {
                bytes.extend_from_slice(&piece.map_err(|error| self.got(&error))?);
                if bytes.len() as u64 > SMALL {
                    return Err(too_large());
                }
            }
            Ok(bytes)
        };
        self.within(PATIENCE, read).await?
    }

    /// The size of an object in bytes.
    pub(super) fn size(&self, name: &str) -> Result<u64, Trouble> {
        self.wait(self.size_now(name))
    }

    async fn size_now(&self, name: &str) -> Result<u64, Trouble> {
        let at = self.at(name);
        let found = self.within(PATIENCE, self.store.head(&at)).await?;
        Ok(found.map_err(|error| self.got(&error))?.size)
    }

    /// A file, written to the new file `path` as it comes, if it is the one that `wanted` says.
    pub(super) fn get_file(
        &self,
        name: &str,
        path: &Path,
        wanted: &FileEntry,
    ) -> Result<(), Trouble> {
        let at = self.at(name);
        let here = |error: std::io::Error| {
            Trouble::Failed(format!("cannot write {}: {error}", path.display()))
        };
        let wrong = || Trouble::Wrong(format!("{name} has not the bytes of its name"));
        let mut file = File::create_new(path).map_err(here)?;
        let until = Instant::now() + PATIENCE + Duration::from_secs(wanted.bytes / SLOWEST);
        self.wait(async {
            let found = self.within(PATIENCE, self.store.get(&at)).await?;
            let found = found.map_err(|error| self.got(&error))?;
            let mut pieces = found.into_stream();
            let (mut hasher, mut size) = (blake3::Hasher::new(), 0_u64);
            while let Some(piece) = self.within(PATIENCE, pieces.next()).await? {
                let piece = piece.map_err(|error| self.got(&error))?;
                size += piece.len() as u64;
                // Whatever it sends, no more than was said.
                if size > wanted.bytes {
                    return Err(wrong());
                }
                if Instant::now() > until {
                    return Err(too_slow());
                }
                hasher.update(&piece);
                file.write_all(&piece).map_err(here)?;
            }
            if size == wanted.bytes
                && Digest::from_bytes(*hasher.finalize().as_bytes()) == wanted.digest
            {
                return Ok(());
            }
            Err(wrong())
        })
    }

    /// Puts a small object.
    pub(super) fn put(&self, name: &str, bytes: Vec<u8>, mode: Mode) -> Result<(), Trouble> {
        let at = self.at(name);
        let limit = SENDING + Duration::from_secs(bytes.len() as u64 / SLOWEST);
        let payload = PutPayload::from(bytes);
        let put = |mode| {
            self.store
                .put_opts(&at, payload.clone(), PutOptions::from(mode))
        };
        self.wait(self.within(limit, async {
            let put_mode = match mode {
                Mode::New => PutMode::Create,
                Mode::Replace => PutMode::Overwrite,
            };
            let done = match put(put_mode).await {
                // A service that has no conditions gets the same bytes once more at worst.
                Err(Error::NotImplemented { .. }) => put(PutMode::Overwrite).await,
                done => done,
            };
            match done {
                // Another writer was first, with the same content.
                Ok(_) | Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(()),
                Err(error) => Err(self.refused(&error)),
            }
        }))?
    }

    /// Puts the file `path`, if it is the one that `wanted` says.
    pub(super) fn put_file(
        &self,
        name: &str,
        path: &Path,
        wanted: &FileEntry,
        mode: Mode,
    ) -> Result<(), Trouble> {
        let here = |error: std::io::Error| {
            Trouble::Own(format!("cannot read {}: {error}", path.display()))
        };
        let damaged = || Trouble::Own(format!("{} is damaged", path.display()));
        let mut file = File::open(path).map_err(here)?;
        if wanted.bytes <= PART as u64 {
            let mut all = Vec::new();
            file.read_to_end(&mut all).map_err(here)?;
            if Digest::of_bytes(&all) != wanted.digest {
                return Err(damaged());
            }
            return self.put(name, all, mode);
        }
        let at = self.at(name);
        self.wait(async {
            let begun = self.within(SENDING, self.store.put_multipart(&at)).await?;
            let begun = begun.map_err(|error| self.refused(&error))?;
            match self.send_parts(begun, &mut file, wanted, here).await {
                Ok(upload) => {
                    let ended = self.within(SENDING, upload.finish()).await?;
                    ended.map(drop).map_err(|error| self.refused(&error))
                }
                Err((upload, trouble)) => {
                    // What is left of it there costs space; a rule of the bucket removes such parts.
                    let _ = tokio::time::timeout(PATIENCE, upload.abort()).await;
                    Err(trouble.unwrap_or_else(damaged))
                }
            }
        })
    }

    /// Sends all parts of a file. Gives the upload back, to be finished; or to be aborted, without a trouble where the
    /// bytes were not those that are wanted.
    async fn send_parts(
        &self,
        begun: Box<dyn MultipartUpload>,
        file: &mut File,
        wanted: &FileEntry,
        here: impl Fn(std::io::Error) -> Trouble,
    ) -> Result<WriteMultipart, (WriteMultipart, Option<Trouble>)> {
        let part = PART.max(usize::try_from(wanted.bytes / MOST_PARTS).unwrap_or(PART));
        let mut upload = WriteMultipart::new_with_chunk_size(begun, part);
        let (mut hasher, mut size) = (blake3::Hasher::new(), 0_u64);
        let mut piece = vec![0; 1 << 20];
        let limit = SENDING + Duration::from_secs(part as u64 / SLOWEST);
        loop {
            let count = match file.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) => return Err((upload, Some(here(error)))),
            };
            let waited = self
                .within(limit, upload.wait_for_capacity(PARTS_AT_ONCE))
                .await;
            let waited = waited.and_then(|done| done.map_err(|error| self.refused(&error)));
            if let Err(trouble) = waited {
                return Err((upload, Some(trouble)));
            }
            size += count as u64;
            hasher.update(&piece[..count]);
            upload.write(&piece[..count]);
        }
        let waited = self.within(limit, upload.wait_for_capacity(1)).await;
        if let Err(trouble) = waited.and_then(|done| done.map_err(|error| self.refused(&error))) {
            return Err((upload, Some(trouble)));
        }
        if size == wanted.bytes
            && Digest::from_bytes(*hasher.finalize().as_bytes()) == wanted.digest
        {
            Ok(upload)
        } else {
            Err((upload, None))
        }
    }

    /// Waits for as long as one may.
    async fn within<T>(
        &self,
        limit: Duration,
        future: impl Future<Output = T>,
    ) -> Result<T, Trouble> {
        let mut stopped = self.stopped.subscribe();
        let stop = pin!(async { stopped.wait_for(|stopped| *stopped).await.is_ok() });
        let work = pin!(tokio::time::timeout(limit, future));
        match select(work, stop).await {
            Either::Left((Ok(done), _)) => Ok(done),
            Either::Left((Err(_), _)) => Err(Trouble::Failed(format!(
                "no answer in {} s",
                limit.as_secs()
            ))),
            Either::Right(_) => Err(Trouble::Stopped),
        }
    }

    /// Why an object could not be got.
    fn got(&self, error: &Error) -> Trouble {
        let message = self.secrets.message(error);
        // Where the whole bucket is missing, that is worth a word.
        let lost = ["NoSuchBucket", "ContainerNotFound", "bucket does not exist"];
        match error {
            Error::NotFound { .. } if !lost.iter().any(|word| message.contains(word)) => {
                Trouble::Absent
            }
            _ => Trouble::Failed(message),
        }
    }

    /// Why an object could not be put there.
    fn refused(&self, error: &Error) -> Trouble {
        Trouble::Failed(self.secrets.message(error))
    }
}

fn too_slow() -> Trouble {
    Trouble::Failed(format!(
        "it sends less than {} kB in a second",
        SLOWEST / 1000
    ))
}
