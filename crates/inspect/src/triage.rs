//! The first facts of a crash.

use crate::check;
use crate::error::Losses;
use crate::kernel::Kernel;
use crate::memory::Memory;
use crate::msgbuf::MessageBuffer;
use crate::text::printable;

/// Longest panic message taken; the kernel's own buffer has 256 bytes.
const MOST_PANIC: usize = 1024;

/// What one wants to know first; each from the kernel's memory, or else from
/// its messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `version`, in one line.
    pub version: Option<String>,
    /// `panicstr`.
    pub panic: Option<String>,
    /// Seconds since 1970: what `panic` printed as `time = `, or
    /// `time_second`.
    pub time: Option<i64>,
    /// As `panic` printed it: `1h2m3s`.
    pub uptime: Option<String>,
    /// `mp_ncpus`.
    pub cpus: Option<u32>,
    /// `hz`.
    pub hz: Option<u32>,
}

/// Gathers the facts; what isn't to be had becomes a loss. `header` is what a
/// dump device's header says: it stands where the kernel doesn't.
pub fn facts(
    kernel: Option<(&Kernel<'_>, &Memory<'_>)>,
    messages: Option<&MessageBuffer>,
    header: Facts,
    losses: &mut Losses,
) -> Facts {
    let in_kernel = |symbol| kernel.and_then(|(k, m)| Some((k.symbol(symbol).ok()?, m)));
    let positive = |symbol| {
        let (at, memory) = in_kernel(symbol)?;
        memory.i32(at).ok().and_then(|n| u32::try_from(n).ok()).filter(|&n| n > 0)
    };
    let facts = Facts {
        version: kernel
            .and_then(|(k, m)| check::dump_version(k, m))
            .or_else(|| messages.and_then(check::version_in))
            .or(header.version),
        panic: kernel
            .and_then(|(k, m)| panicstr(k, m))
            .or_else(|| messages.and_then(|m| after(m, b"panic: ")))
            .or(header.panic),
        time: messages
            .and_then(|m| after(m, b"time = ")?.parse().ok())
            .or_else(|| kernel.and_then(|(k, m)| time_second(k, m)))
            .or(header.time),
        uptime: messages.and_then(|m| after(m, b"Uptime: ")),
        cpus: positive("mp_ncpus"),
        hz: positive("hz"),
    };
    for (there, what) in [
        (facts.version.is_some(), "the kernel's version"),
        (facts.panic.is_some(), "the panic message"),
        (facts.time.is_some(), "the time of the crash"),
    ] {
        if !there {
            losses.add(what, "neither the kernel's memory nor its messages tell");
        }
    }
    facts
}

fn panicstr(kernel: &Kernel<'_>, memory: &Memory<'_>) -> Option<String> {
    let at = memory.pointer(kernel.symbol("panicstr").ok()?).ok()?;
    if !kernel.machine().is_kernel_address(at) {
        return None;
    }
    let text = memory.string(at, MOST_PANIC).ok()?;
    let text = text.strip_suffix(b"\n").unwrap_or(&text);
    (!text.is_empty()).then(|| printable(text))
}

/// `time_t` has 32 bits on i386, else 64.
fn time_second(kernel: &Kernel<'_>, memory: &Memory<'_>) -> Option<i64> {
    let at = kernel.symbol("time_second").ok()?;
    let n = memory.pointer(at).ok()?.0 as i64;
    (n > 0).then_some(n)
}

/// The rest of the newest line that begins with `start`.
fn after(messages: &MessageBuffer, start: &[u8]) -> Option<String> {
    messages.lines().rev().find_map(|l| l.text.strip_prefix(start)).map(printable)
}

/// `2023-11-14 22:13:20 UTC` of seconds since 1970, by the Gregorian calendar
/// (Howard Hinnant's days_from_civil, reversed); `None` for years that no
/// crash is from.
pub fn utc(seconds: i64) -> Option<String> {
    if !(0..253_402_300_800).contains(&seconds) {
        return None;
    }
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, in eras of 400 years.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (h, m, s) = (time / 3600, time / 60 % 60, time % 60);
    Some(format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02} UTC"))
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn dates() {
        for (seconds, date) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_700_000_000, "2023-11-14 22:13:20 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(seconds).as_deref(), Some(date));
        }
        assert_eq!((utc(-1), utc(i64::MAX)), (None, None));
    }
}
