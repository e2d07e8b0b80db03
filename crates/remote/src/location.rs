//! URLs of objects, and how they are shown: without secrets.

use std::fmt;

use object_store::path::Path as Key;
use url::Url;

use crate::error::{Error, Result};

/// Where an object lies. `Display` leaves out the query of a URL, which may
/// be a signature.
#[derive(Clone, PartialEq, Eq)]
pub struct Location {
    pub(crate) place: Box<Place>,
    shown: String,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A file on a web server.
    Web(Url),
    /// An object: bucket or container, and key. Keys are as the stores' own
    /// tools take them, without URL encoding.
    Object(Store, String, Key),
}

/// Kinds of object stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    S3,
    Gcs,
    Azure,
}

const STORES: [(&str, Store); 3] =
    [("s3://", Store::S3), ("gs://", Store::Gcs), ("az://", Store::Azure)];

impl Location {
    /// Parses `text` if it begins like a URL that this crate reads: `http://`,
    /// `https://`, `s3://BUCKET/KEY`, `gs://BUCKET/KEY` or `az://CONTAINER/KEY`.
    /// `None` where it is something else, as the name of a file.
    pub fn parse(text: &str) -> Option<Result<Self>> {
        for (scheme, store) in STORES {
            if let Some(rest) = text.strip_prefix(scheme) {
                return Some(Self::object(text, store, rest));
            }
        }
        let is_web = text.starts_with("http://") || text.starts_with("https://");
        is_web.then(|| Self::web(text))
    }

    fn object(text: &str, store: Store, rest: &str) -> Result<Self> {
        let wrong = |what: String| Error::Url { url: text.to_owned(), what };
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() || key.is_empty() {
            let (scheme, _) = STORES.iter().find(|s| s.1 == store).unwrap_or(&STORES[0]);
            return Err(wrong(format!("expected {scheme}BUCKET/KEY")));
        }
        if bucket.contains(['@', ':', '?', '#']) {
            let what = "the bucket's name has characters that no bucket's has".into();
            return Err(Error::Url { url: format!("{}...", &text[..5]), what });
        }
        let key = Key::parse(key).map_err(|e| wrong(format!("not a key: {e}")))?;
        Ok(Self {
            place: Box::new(Place::Object(store, bucket.to_owned(), key)),
            shown: text.to_owned(),
        })
    }

    fn web(text: &str) -> Result<Self> {
        let shown = redacted(text);
        let wrong = |what: String| Error::Url { url: shown.clone(), what };
        let mut url = Url::parse(text).map_err(|e| wrong(format!("not a URL: {e}")))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong(
                "names and passwords in URLs are not used, as every process of this machine can \
                 see them; a signed URL, or an object store's own, will do"
                    .into(),
            ));
        }
        url.set_fragment(None);
        Ok(Self { place: Box::new(Place::Web(url)), shown })
    }

    /// The object with `name` in the folder that this is. Of web servers:
    /// before the query.
    pub fn join(&self, name: &str) -> Result<Self> {
        let folder = self.shown.trim_end_matches('/');
        match &*self.place {
            Place::Object(store, ..) => {
                let text = format!("{folder}/{name}");
                let (scheme, _) = STORES.iter().find(|s| s.1 == *store).unwrap_or(&STORES[0]);
                Self::object(&text, *store, &text[scheme.len()..])
            }
            Place::Web(_) => Err(Error::Url {
                url: self.shown.clone(),
                what: "folders of web servers can't be written to".into(),
            }),
        }
    }

    /// The last part of the path, as a name for a copy.
    pub fn file_name(&self) -> &str {
        match &*self.place {
            Place::Object(_, _, key) => key.filename().unwrap_or(""),
            Place::Web(url) => url.path().rsplit('/').next().unwrap_or(""),
        }
    }

    /// Where its store's credentials come from.
    pub(crate) fn credentials(&self) -> &'static str {
        match &*self.place {
            Place::Object(Store::S3, ..) => {
                "credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the profile \
                 AWS_PROFILE of ~/.aws/credentials, or the machine's role"
            }
            Place::Object(Store::Gcs, ..) => {
                "credentials come from the file that GOOGLE_APPLICATION_CREDENTIALS names, or the \
                 machine's account"
            }
            Place::Object(Store::Azure, ..) => {
                "credentials come from AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, \
                 AZURE_STORAGE_SAS_KEY, or the machine's identity"
            }
            Place::Web(_) => "a signed URL may have expired",
        }
    }
}

/// `text` without query, user and password: also of what isn't a URL after all.
fn redacted(text: &str) -> String {
    let text = text.split('#').next().unwrap_or("");
    let (path, query) = text.split_once('?').map_or((text, ""), |(path, _)| (path, "?..."));
    let Some((scheme, rest)) = path.split_once("://") else { return format!("{path}{query}") };
    let (host, path) = rest.split_once('/').map_or((rest, None), |(h, p)| (h, Some(p)));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let slash = if path.is_some() { "/" } else { "" };
    format!("{scheme}://{host}{slash}{}{query}", path.unwrap_or(""))
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match Location::parse(text).expect("a URL") {
            Ok(at) => format!("{at} {at:?}"),
            Err(e) => format!("{e} {e:?}"),
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        for text in [
            "https://host/a/b.cask?X-Amz-Signature=s3cr3t&x=s3cr3t",
            "https://user:s3cr3t@host/a/b.cask",
            "https://s3cr3t@host/a?s3cr3t#s3cr3t",
            "https://us:s3cr3t@[bad/a?s3cr3t",
            "http://a:s3cr3t@",
            "http://host?s3cr3t",
            "s3://key:s3cr3t@bucket/key",
        ] {
            assert!(!shown(text).contains("s3cr3t"), "{}", shown(text));
        }
        assert_eq!(shown("http://h/a?b=c"), "http://h/a?... http://h/a?...");
    }

    #[test]
    fn urls_and_names() {
        for name in ["vmcore.0", "/a/b", "./s3:/x", "ftp://h/x", "http:/x", "S3", "-"] {
            assert!(Location::parse(name).is_none(), "{name}");
        }
        for bad in ["s3://", "s3://bucket", "s3://bucket/", "gs:///key", "s3://b/a//b", "http://"] {
            assert!(matches!(Location::parse(bad), Some(Err(Error::Url { .. }))), "{bad}");
        }
        let at = Location::parse("s3://dumps/a b/vm%core").unwrap().unwrap();
        assert_eq!(at.file_name(), "vm%core");
        assert_eq!(at.to_string(), "s3://dumps/a b/vm%core");
        let at = Location::parse("az://c/dir/").unwrap().unwrap();
        assert_eq!(at.join("vmcore.0.cask").unwrap().to_string(), "az://c/dir/vmcore.0.cask");
    }
}
