//! Credentials in the files of the `aws` command line tool.

use std::path::{Path, PathBuf};

use ini::{Ini, Properties};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};

/// With any of these set the files aren't asked.
const BEFORE_FILES: [&str; 4] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_SKIP_SIGNATURE",
];

/// What a profile may say, and what it is to the builder.
const KEYS: [(&str, AmazonS3ConfigKey, Option<&str>); 5] = [
    ("aws_access_key_id", AmazonS3ConfigKey::AccessKeyId, None),
    ("aws_secret_access_key", AmazonS3ConfigKey::SecretAccessKey, None),
    ("aws_session_token", AmazonS3ConfigKey::Token, None),
    ("region", AmazonS3ConfigKey::Region, Some("AWS_REGION")),
    ("endpoint_url", AmazonS3ConfigKey::Endpoint, Some("AWS_ENDPOINT_URL")),
];

/// Adds what the profile `AWS_PROFILE`, or `default`, has. Fails with a
/// sentence where a profile is named that isn't there.
pub(crate) fn add(builder: AmazonS3Builder) -> Result<AmazonS3Builder, String> {
    let var = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let explicit = var("AWS_PROFILE");
    if explicit.is_none() && BEFORE_FILES.iter().any(|name| var(name).is_some()) {
        return Ok(builder);
    }
    let home = var("HOME").map(|home| PathBuf::from(home).join(".aws"));
    let file = |name: &str, default: &str| {
        var(name).map(PathBuf::from).or_else(|| Some(home.as_ref()?.join(default)))
    };
    let credentials = file("AWS_SHARED_CREDENTIALS_FILE", "credentials");
    let config = file("AWS_CONFIG_FILE", "config");
    let name = explicit.as_deref().unwrap_or("default");
    from_files(builder, name, explicit.is_some(), credentials.as_deref(), config.as_deref(), &|n| {
        var(n).is_some()
    })
}

fn from_files(
    mut builder: AmazonS3Builder,
    name: &str,
    must: bool,
    credentials: Option<&Path>,
    config: Option<&Path>,
    in_environment: &dyn Fn(&str) -> bool,
) -> Result<AmazonS3Builder, String> {
    let mut found = false;
    let sections =
        [(config, format!("profile {name}")), (config, name.into()), (credentials, name.into())];
    for (path, section) in sections {
        let Some(path) = path.filter(|p| p.is_file()) else { continue };
        // What the parser says quotes lines of the file.
        let file = Ini::load_from_file_noescape(path)
            .map_err(|_| format!("{} can't be read as a file of profiles", path.display()))?;
        let Some(section) = file.section(Some(&*section)) else { continue };
        found = true;
        builder = from_section(builder, section, in_environment);
    }
    if must && !found {
        return Err(format!("AWS_PROFILE names the profile {name}, which is in no file"));
    }
    Ok(builder)
}

fn from_section(
    mut builder: AmazonS3Builder,
    section: &Properties,
    in_environment: &dyn Fn(&str) -> bool,
) -> AmazonS3Builder {
    for (key, config, variable) in KEYS {
        if let Some(value) = section.get(key)
            && !variable.is_some_and(in_environment)
        {
            builder = builder.with_config(config, value);
        }
    }
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        file
    }

    #[test]
    fn profiles() {
        let credentials = write(
            "[default]\naws_access_key_id = A\naws_secret_access_key = a/b+c=\n\n[ops]\n\
             aws_access_key_id=B\naws_secret_access_key=x\\y\naws_session_token=t\n",
        );
        let config = write("[profile ops]\nregion = eu-north-1\n[default]\nregion = us-west-2\n");
        let get = |name: &str, must| {
            let files = (Some(credentials.path()), Some(config.path()));
            from_files(AmazonS3Builder::new(), name, must, files.0, files.1, &|_| false)
        };
        let value = |b: &AmazonS3Builder, key| b.get_config_value(&key).unwrap_or_default();
        let b = get("ops", true).unwrap();
        assert_eq!(value(&b, AmazonS3ConfigKey::AccessKeyId), "B");
        assert_eq!(value(&b, AmazonS3ConfigKey::SecretAccessKey), "x\\y");
        assert_eq!(value(&b, AmazonS3ConfigKey::Token), "t");
        assert_eq!(value(&b, AmazonS3ConfigKey::Region), "eu-north-1");
        let b = get("default", false).unwrap();
        assert_eq!(value(&b, AmazonS3ConfigKey::SecretAccessKey), "a/b+c=");
        assert_eq!(value(&b, AmazonS3ConfigKey::Region), "us-west-2");
        let e = get("nobody", true).unwrap_err();
        assert!(e.contains("nobody"), "{e}");
        assert_eq!(value(&get("nobody", false).unwrap(), AmazonS3ConfigKey::AccessKeyId), "");
    }

    #[test]
    fn what_is_no_file_of_profiles_is_not_quoted() {
        let file = write("[default\ns3cr3t");
        let e =
            from_files(AmazonS3Builder::new(), "default", false, Some(file.path()), None, &|_| {
                false
            })
            .unwrap_err();
        assert!(!e.contains("s3cr3t"), "{e}");
    }
}
