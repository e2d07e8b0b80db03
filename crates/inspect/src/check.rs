//! Whether the kernel image is that of the kernel in the dump.

use std::fmt::{self, Write as _};

use vmcask_dump::VirtAddr;

use crate::kernel::Kernel;
use crate::memory::Memory;
use crate::msgbuf::MessageBuffer;
use crate::text::printable;

/// Longest part of a version string that is compared and shown.
const MOST_VERSION: usize = 512;

/// What became of the comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageCheck {
    /// The same kernel.
    Same {
        /// What was compared.
        by: &'static str,
    },
    /// Another kernel: addresses mean other things.
    Differs {
        /// What was compared.
        by: &'static str,
        /// What the image says it is.
        image: String,
        /// What the dump says it is.
        dump: String,
    },
    /// Nothing could be compared.
    Unknown {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for ImageCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same { by } => write!(f, "the kernel image is the dump's, by {by}"),
            Self::Differs { by, image, dump } => write!(
                f,
                "the kernel image is not the dump's, by {by}: the image is \"{image}\", \
                 the dump is from \"{dump}\""
            ),
            Self::Unknown { reason } => {
                write!(f, "whether the kernel image is the dump's can't be told: {reason}")
            }
        }
    }
}

/// Compares by build-id, where both have one, else by the string `version`.
/// `messages` serves to name the dump's kernel where its memory doesn't; it
/// is asked for only then, for finding them can take a while.
pub fn image(
    kernel: &Kernel<'_>,
    memory: &Memory<'_>,
    messages: impl FnOnce() -> Option<MessageBuffer>,
) -> ImageCheck {
    build_id(kernel, memory).unwrap_or_else(|| version(kernel, memory, messages))
}

/// The note is where the image has it, if the kernel is the same or near:
/// something else there says nothing about the build-id.
fn build_id(kernel: &Kernel<'_>, memory: &Memory<'_>) -> Option<ImageCheck> {
    const NT_GNU_BUILD_ID: u32 = 3;
    let image = kernel.image();
    let (want, note) = (image.build_id()?, image.build_id_note()?);
    let word = |i| memory.u32(note.checked_add(i)?).ok();
    let (namesz, descsz, n_type) = (word(0)?, word(4)?, word(8)?);
    let mut name = [0; 4];
    memory.read(note.checked_add(12)?, &mut name).ok()?;
    if namesz != 4 || &name != b"GNU\0" || n_type != NT_GNU_BUILD_ID || descsz > 64 {
        return None;
    }
    let mut found = vec![0; descsz as usize];
    memory.read(note.checked_add(16)?, &mut found).ok()?;
    let hex = |id: &[u8]| {
        id.iter().fold(String::new(), |mut hex, b| {
            let _ = write!(hex, "{b:02x}");
            hex
        })
    };
    Some(if found == want {
        ImageCheck::Same { by: "build-id" }
    } else {
        ImageCheck::Differs { by: "build-id", image: hex(want), dump: hex(&found) }
    })
}

fn version(
    kernel: &Kernel<'_>,
    memory: &Memory<'_>,
    messages: impl FnOnce() -> Option<MessageBuffer>,
) -> ImageCheck {
    let unknown = |reason: String| ImageCheck::Unknown { reason };
    let Ok(at) = kernel.symbol("version") else {
        return unknown("the image has neither a build-id nor a symbol version".into());
    };
    let Some(of_image) = image_string(kernel, at) else {
        return unknown("the image has the symbol version, but not its text".into());
    };
    let found = memory.string(at, MOST_VERSION);
    if found.as_ref().is_ok_and(|found| *found == of_image) {
        return ImageCheck::Same { by: "version" };
    }
    let said = match &found {
        Ok(found) if found.starts_with(b"FreeBSD ") => None,
        _ => messages().as_ref().and_then(version_in),
    };
    let dump = match (found, said) {
        (Ok(found), _) if found.starts_with(b"FreeBSD ") => one_line(&found),
        // The log's line is the string's first one.
        (_, Some(said)) if !one_line(&of_image).starts_with(&said) => said,
        (Ok(found), _) if found.is_empty() => return unknown(format!("{at} is zero in the dump")),
        // Not what it is: whatever memory holds there, a log shouldn't.
        (Ok(_), _) => format!("something else at {at}"),
        (Err(e), _) => return unknown(e.to_string()),
    };
    ImageCheck::Differs { by: "version", image: one_line(&of_image), dump }
}

/// The dump's own version string, where it has one.
pub(crate) fn dump_version(kernel: &Kernel<'_>, memory: &Memory<'_>) -> Option<String> {
    let found = memory.string(kernel.symbol("version").ok()?, MOST_VERSION).ok()?;
    found.starts_with(b"FreeBSD ").then(|| one_line(&found))
}

/// What the newest boot in the log said it was.
pub(crate) fn version_in(messages: &MessageBuffer) -> Option<String> {
    messages
        .lines()
        .rev()
        .map(|line| line.text)
        .find(|text| text.starts_with(b"FreeBSD ") && text.get(8).is_some_and(u8::is_ascii_digit))
        .map(one_line)
}

fn image_string(kernel: &Kernel<'_>, at: VirtAddr) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    while out.len() < MOST_VERSION {
        let mut byte = [0];
        kernel.image().read(at.checked_add(out.len() as u64)?, &mut byte).ok()?;
        if byte == [0] {
            break;
        }
        out.extend(byte);
    }
    (!out.is_empty()).then_some(out)
}

/// A version string has a second line: who built it where.
fn one_line(text: &[u8]) -> String {
    let words = text.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty());
    printable(&words.collect::<Vec<_>>().join(&b' '))
}
