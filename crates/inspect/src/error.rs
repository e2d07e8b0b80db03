//! The crate's error type, and what a partial answer lacks.

use std::fmt;

use vmcask_dump::Arch;

/// Why a question has no answer at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading the dump or the image failed.
    #[error(transparent)]
    Dump(#[from] vmcask_dump::Error),

    /// The kernel image is for another machine.
    #[error("the kernel image is for {image}, the dump is from {dump}: give the dump's own kernel")]
    OtherMachine {
        /// The image's machine.
        image: String,
        /// The dump's machine.
        dump: Arch,
    },

    /// Nobody says which machine the dump is from.
    #[error("neither the dump nor the kernel image (e_machine {e_machine}) is of a known machine")]
    UnknownMachine {
        /// The image's `e_machine`.
        e_machine: u16,
    },

    /// A symbol that the question needs isn't in the image.
    #[error("the kernel image has no symbol {0}: give the kernel that was running, not stripped")]
    NoSymbol(&'static str),

    /// The offsets of structure members aren't to be had.
    #[error("{symbol} (where a structure member lies) can't be read: {reason}")]
    NoOffset {
        /// The symbol.
        symbol: &'static str,
        /// What both sources said.
        reason: String,
    },

    /// A value in the dump can't be right.
    #[error("{field} is {found}, expected {expected}")]
    Value {
        /// The C name.
        field: &'static str,
        /// What the dump has.
        found: String,
        /// What would have been accepted.
        expected: &'static str,
    },
}

/// The crate's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A part of the answer that is missing, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// What is missing.
    pub what: String,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.reason)
    }
}

/// What an answer lacks. The first thousand are kept, the others counted: a
/// dump with a million torn threads shall not take a gigabyte to say so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    list: Vec<Loss>,
    more: u64,
}

impl Losses {
    const KEPT: usize = 1000;

    /// Adds one.
    pub fn add(&mut self, what: impl Into<String>, reason: impl fmt::Display) {
        if self.list.len() < Self::KEPT {
            self.list.push(Loss { what: what.into(), reason: reason.to_string() });
        } else {
            self.more += 1;
        }
    }

    /// Adds those of another answer.
    pub fn append(&mut self, other: Self) {
        let room = Self::KEPT.saturating_sub(self.list.len());
        self.more += other.more + other.list.len().saturating_sub(room) as u64;
        self.list.extend(other.list.into_iter().take(room));
    }

    /// Whether the answer is whole.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty() && self.more == 0
    }

    /// Those that were kept.
    pub fn list(&self) -> &[Loss] {
        &self.list
    }

    /// How many there are besides [`Self::list`].
    pub fn more(&self) -> u64 {
        self.more
    }
}
