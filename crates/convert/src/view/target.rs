//! Which view a conversion needs.

use std::sync::Arc;

use vmcask_dump::{KernelImage, Minidump, ReadAt};

use super::prstatus::Prstatus;
use super::{View, kernel_view, minidump_of_elf, minidump_version, physical_view};
use crate::error::{Error, Result};
use crate::input::{Dump, Input};

/// Formats that a dump can be seen as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A minidump, of a version or of the newest.
    Minidump {
        /// The version asked for.
        version: Option<u32>,
    },
    /// ELF, physical view.
    Elf,
    /// ELF, kernel view.
    KernelView,
}

/// How to convert.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// Leave out pages full of zeros.
    pub drop_zero: bool,
    /// The kernel's image, already told to the dump by
    /// [`Dump::use_kernel`].
    pub kernel: Option<&'a KernelImage>,
    /// Put the pages at this offset of an ELF file at least, in bytes.
    pub data_at: u64,
    /// Registers that a kernel view gives debuggers to begin with; the first
    /// is the thread they show.
    pub threads: &'a [Prstatus],
}

/// The bytes of `input` in another format.
pub fn of(input: &Input, target: Target, options: &Options<'_>) -> Result<View> {
    let view = of_dump(&input.dump, &input.source, target, options);
    // Before a byte of it goes into a pipe; and what can't be done for lack of
    // a part may be for lack of a sector.
    input.check_source()?;
    view
}

/// [`of`], for a dump and the source it was opened on.
pub fn of_dump(
    dump: &Dump,
    source: &Arc<dyn ReadAt>,
    target: Target,
    options: &Options<'_>,
) -> Result<View> {
    let elf = physical_view::Options {
        drop_zero: options.drop_zero,
        data_at: options.data_at,
        threads: &[],
    };
    match (dump, target) {
        (Dump::Minidump(_), Target::Minidump { .. }) if options.drop_zero => {
            Err(Error::Unsupported(
                "a minidump's zero pages can be left out on the way to ELF or from it; as an \
                 archive they cost a bit each"
                    .into(),
            ))
        }
        (Dump::Minidump(_), Target::Minidump { version: None }) => Ok(same(source)),
        (Dump::Minidump(d), Target::Minidump { version: Some(v) }) => {
            minidump_version::build(d, source, v)
        }
        (Dump::Elf(c), Target::Minidump { version }) => {
            let kernel = options.kernel;
            let drop_zero = options.drop_zero;
            let options = minidump_of_elf::Options { version, drop_zero, kernel };
            let view = minidump_of_elf::build(c, source, &options)?;
            let noted = c.note().and_then(|n| n.minidump.as_ref()).map(|m| m.header().version);
            match (noted, version) {
                (Some(noted), Some(version)) if noted != version => in_version(view, version),
                _ => Ok(view),
            }
        }
        // A kernel view is written as a physical one where that's asked for.
        (Dump::Elf(c), Target::Elf)
            if !elf.drop_zero && c.note().is_none_or(|n| n.meta.view != "kernel") =>
        {
            Ok(same(source))
        }
        (_, Target::Elf) => physical_view::build(dump, source, &elf),
        (Dump::Elf(c), Target::KernelView) if c.has_virtual() && !elf.drop_zero => {
            let mut view = same(source);
            view.remarks.push("the core has kernel addresses already; copied as it is".into());
            Ok(view)
        }
        (_, Target::KernelView) => {
            let threads = options.threads;
            kernel_view::build(dump, source, &physical_view::Options { threads, ..elf })
        }
    }
}

/// The source as it is.
fn same(source: &Arc<dyn ReadAt>) -> View {
    let mut view = View::new();
    let id = view.add_source(source.clone());
    view.push(id, 0, source.len());
    view
}

/// A view of a minidump in another version.
fn in_version(view: View, version: u32) -> Result<View> {
    let (losses, remarks) = (view.losses.clone(), view.remarks.clone());
    let source: Arc<dyn ReadAt> = Arc::new(view);
    let dump = Minidump::open(source.clone()).map_err(Error::Mappings)?;
    let mut view = minidump_version::build(&dump, &source, version)?;
    view.losses.extend(losses);
    view.remarks.extend(remarks);
    Ok(view)
}
