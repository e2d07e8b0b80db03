//! What can be wrong with a dump, on request.

use std::fmt;
use std::str::FromStr;

/// A defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Defect {
    /// `truncate=PERCENT`: the file ends after this part of it, as when the
    /// device was too small or a copy was cut off.
    Truncate(u8),
    /// `trailing`: 8 KiB of something follow the last page.
    Trailing,
    /// `bad-magic`: the first byte is not what it should be.
    BadMagic,
    /// `bad-version`: the minidump's version is 99.
    BadVersion,
    /// `huge-sizes`: the minidump's header promises a bitmap and a pmap of
    /// 4 GiB.
    HugeSizes,
    /// `bitmap-spare-bits`: bits behind the last page of memory are set.
    BitmapSpareBits,
    /// `dump-avail-unsorted`: the first two ranges change places.
    DumpAvailUnsorted,
    /// `dump-avail-overlap`: the second range starts inside the first.
    DumpAvailOverlap,
    /// `dump-avail-open`: no pair of zeros ends the ranges.
    DumpAvailOpen,
    /// `dump-avail-width`: entries of the width that the architecture's
    /// kernels don't use: 64 bits on arm, 32 on i386.
    DumpAvailWidth,
    /// `bad-pte`: the page table entry of the heap's first page names a page
    /// that isn't in the dump.
    BadPte,
    /// `missing-pt-page`: on amd64 from version 2 on, the page table page of
    /// the heap's first 2 MiB isn't in the dump.
    MissingPtPage,
    /// `bad-parity`: the XOR of the kernel dump header's words isn't 0.
    BadParity,
    /// `headers-differ`: the leading kernel dump header is another dump's.
    HeadersDiffer,
    /// `cleared`: savecore has already been there.
    Cleared,
}

impl Defect {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Truncate(50),
        Self::Trailing,
        Self::BadMagic,
        Self::BadVersion,
        Self::HugeSizes,
        Self::BitmapSpareBits,
        Self::DumpAvailUnsorted,
        Self::DumpAvailOverlap,
        Self::DumpAvailOpen,
        Self::DumpAvailWidth,
        Self::BadPte,
        Self::MissingPtPage,
        Self::BadParity,
        Self::HeadersDiffer,
        Self::Cleared,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Truncate(_) => "truncate",
            Self::Trailing => "trailing",
            Self::BadMagic => "bad-magic",
            Self::BadVersion => "bad-version",
            Self::HugeSizes => "huge-sizes",
            Self::BitmapSpareBits => "bitmap-spare-bits",
            Self::DumpAvailUnsorted => "dump-avail-unsorted",
            Self::DumpAvailOverlap => "dump-avail-overlap",
            Self::DumpAvailOpen => "dump-avail-open",
            Self::DumpAvailWidth => "dump-avail-width",
            Self::BadPte => "bad-pte",
            Self::MissingPtPage => "missing-pt-page",
            Self::BadParity => "bad-parity",
            Self::HeadersDiffer => "headers-differ",
            Self::Cleared => "cleared",
        }
    }

    /// Whether the dump's header, bitmap or ranges change, and not only what
    /// stands around it.
    pub(crate) fn is_of_minidumps(self) -> bool {
        !matches!(
            self,
            Self::Truncate(_)
                | Self::Trailing
                | Self::BadMagic
                | Self::BadPte
                | Self::MissingPtPage
                | Self::BadParity
                | Self::HeadersDiffer
                | Self::Cleared
        )
    }

    pub(crate) fn is_of_dump_avail(self) -> bool {
        matches!(
            self,
            Self::DumpAvailUnsorted
                | Self::DumpAvailOverlap
                | Self::DumpAvailOpen
                | Self::DumpAvailWidth
        )
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncate(percent) => write!(f, "truncate={percent}"),
            other => f.write_str(other.name()),
        }
    }
}

impl FromStr for Defect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(percent) = text.strip_prefix("truncate=") {
            let percent = percent.trim_end_matches('%').parse().ok();
            return percent
                .filter(|p| *p < 100)
                .map(Self::Truncate)
                .ok_or_else(|| format!("{text}: expected a percentage below 100"));
        }
        let found = Self::ALL.into_iter().find(|d| d.to_string() == text);
        found.ok_or_else(|| {
            let names: Vec<_> = Self::ALL
                .iter()
                .map(|d| if d.name() == "truncate" { "truncate=PERCENT" } else { d.name() })
                .collect();
            format!("no defect known here; these are: {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for defect in Defect::ALL {
            assert_eq!(defect.to_string().parse(), Ok(defect));
        }
        assert_eq!("truncate=30%".parse(), Ok(Defect::Truncate(30)));
        for wrong in ["", "truncate", "truncate=", "truncate=100", "trailing=1"] {
            assert!(wrong.parse::<Defect>().is_err(), "{wrong}");
        }
    }
}
