//! The crate's error type. It holds text and no causes: a store's own errors
//! name URLs with their signatures, and what the server has answered.

use crate::location::Location;

/// Why an object can't be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URL can't be used.
    #[error("{url}: {what}")]
    Url {
        /// The URL, without what is secret.
        url: String,
        /// What is wrong with it, and what would be right.
        what: String,
    },

    /// The store can't be reached as the environment describes it.
    #[error("{at}: the environment doesn't describe the store: {what}")]
    Config {
        /// The object.
        at: Location,
        /// What is missing or wrong.
        what: String,
    },

    /// There is no such object.
    #[error("{at}: there is no such object")]
    NotFound {
        /// The object.
        at: Location,
    },

    /// The store wants other credentials.
    #[error("{at}: access denied (HTTP {status}): {advice}", advice = .at.credentials())]
    Denied {
        /// The object.
        at: Location,
        /// The status of the answer: 401 or 403.
        status: u16,
    },

    /// The object isn't what it was when it was opened.
    #[error("{at}: the object has changed while it was read; run the command again")]
    Changed {
        /// The object.
        at: Location,
    },

    /// The object, or another upload of it, is there already.
    #[error("{at} exists; --force replaces it")]
    Exists {
        /// The object.
        at: Location,
    },

    /// The server sends whole files only.
    #[error(
        "{at}: the server doesn't answer range requests (HTTP 200 where 206 was expected); \
         download the file and read it here"
    )]
    NoRanges {
        /// The object.
        at: Location,
    },

    /// The store answered with an error, each time it was asked.
    #[error("{at}: {doing}: the server answers HTTP {status}, asked {tries} times")]
    Status {
        /// The object.
        at: Location,
        /// What was tried.
        doing: String,
        /// The status of the last answer.
        status: u16,
        /// Requests made for it.
        tries: usize,
    },

    /// No answer, or not a whole one, each time the store was asked.
    #[error("{at}: {doing}: {what}, tried {tries} times")]
    Transport {
        /// The object.
        at: Location,
        /// What was tried.
        doing: String,
        /// The last cause.
        what: String,
        /// How often it was tried.
        tries: usize,
    },

    /// The store lacks something that is needed here.
    #[error("{at}: {what}")]
    Unsupported {
        /// The object.
        at: Location,
        /// What it lacks.
        what: String,
    },

    /// The threads for the network can't be started.
    #[error("starting the network's threads: {0}")]
    Runtime(String),
}

impl Error {
    /// Whether the same call may succeed later, with nothing changed here.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Transport { .. } | Self::Changed { .. } => true,
            Self::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }
}

/// The crate's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Error> for std::io::Error {
    /// Never [`std::io::ErrorKind::BrokenPipe`] and the like, which mean
    /// something else to those who write to pipes.
    fn from(e: Error) -> Self {
        Self::other(e)
    }
}
