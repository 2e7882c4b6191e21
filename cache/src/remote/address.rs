//! From an address to an object store.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Name;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, ObjectStoreScheme, RetryConfig};
use url::Url;

use super::error::RemoteError;
use super::shown::{self, Secrets};

const KINDS: &str =
    "a folder, s3://bucket/folder, gs://bucket/folder or az://container/folder is needed";

/// A store, and where in it everything lies.
pub(super) struct Place {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) prefix: Name,
    /// The address, without what must not be shown.
    pub(super) name: String,
}

/// Finds the store that an address means. Asks nothing of it.
pub(super) fn open(text: &str, secrets: &Secrets) -> Result<Place, RemoteError> {
    let wrong = |reason: String| RemoteError {
        url: shown::address(text),
        reason,
    };
    if !text.contains("://") {
        let folder = std::path::absolute(text).map_err(|error| wrong(error.to_string()))?;
        return in_folder(&folder).map_err(wrong);
    }
    let url = Url::parse(text).map_err(|error| wrong(error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(
            "it names a user or a password; credentials come from the environment, as in AWS_ACCESS_KEY_ID".to_owned(),
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong(
            "what follows `?` or `#` has no effect; a SAS token comes from the environment, AZURE_STORAGE_SAS_TOKEN"
                .to_owned(),
        ));
    }
    if url.scheme() == "file" {
        let folder = url.to_file_path();
        let folder =
            folder.map_err(|()| wrong("it is no folder's path on this machine".to_owned()))?;
        return in_folder(&folder).map_err(wrong);
    }
    let (scheme, prefix) = ObjectStoreScheme::parse(&url).map_err(|_| wrong(KINDS.to_owned()))?;
    // Another TLS implementation may have been chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let store = match scheme {
        ObjectStoreScheme::AmazonS3 => s3(&url),
        ObjectStoreScheme::GoogleCloudStorage => google(&url),
        ObjectStoreScheme::MicrosoftAzure => azure(&url),
        _ => return Err(wrong(KINDS.to_owned())),
    };
    Ok(Place {
        store: store.map_err(|error| wrong(secrets.message(&error)))?,
        prefix,
        name: shown::address(text),
    })
}

/// A folder need not be there: one that cannot be reached is as good as empty, and says why when something is put there.
fn in_folder(folder: &Path) -> Result<Place, String> {
    let folder = resolved(folder);
    let prefix = Name::from_absolute_path(&folder).map_err(|error| error.to_string())?;
    Ok(Place {
        store: Arc::new(LocalFileSystem::new()),
        prefix,
        name: folder.display().to_string(),
    })
}

/// A path without links and `..`, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let real = path.ancestors().find_map(|above| {
        let rest = path.strip_prefix(above).ok()?;
        Some(above.canonicalize().ok()?.join(rest))
    });
    // Joining an empty rest leaves a slash at the end.
    real.map_or_else(|| path.to_owned(), |real| real.components().collect())
}

/// What a service's own variables say, with limits of ours.
macro_rules! service {
    ($builder:ty, $key:ident, $url:expr) => {
        <$builder>::from_env()
            .with_url($url.as_str())
            .with_retry(retries())
            .with_config($key::Client(ClientConfigKey::ConnectTimeout), "5 seconds")
            // A large file may take long; that it does not stand still is seen to where it is read.
            .with_config($key::Client(ClientConfigKey::Timeout), "1 day")
    };
}

fn s3(url: &Url) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = service!(AmazonS3Builder, AmazonS3ConfigKey, url);
    let mut endpoints = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint].into_iter();
    let named = endpoints.find_map(|key| builder.get_config_value(&key));
    if named.is_some_and(|endpoint| endpoint.starts_with("http://")) {
        // Whoever writes it means it.
        builder = builder.with_allow_http(true);
    }
    Ok(Arc::new(builder.build()?))
}

fn google(url: &Url) -> object_store::Result<Arc<dyn ObjectStore>> {
    let builder = service!(GoogleCloudStorageBuilder, GoogleConfigKey, url);
    Ok(Arc::new(builder.build()?))
}

fn azure(url: &Url) -> object_store::Result<Arc<dyn ObjectStore>> {
    let builder = service!(MicrosoftAzureBuilder, AzureConfigKey, url);
    Ok(Arc::new(builder.build()?))
}

/// A hiccup is passed over; a remote that is gone is given up soon.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
        max_retries: 3,
        retry_timeout: Duration::from_secs(10),
    }
}
