//! ELF, kernel view: the same bytes once, with PT_LOADs for physical runs
//! (p_vaddr in the direct map) and further PT_LOADs for the kernel map that
//! point at the same file offsets. Debuggers that know nothing of FreeBSD's
//! page tables read kernel addresses from it.

use std::sync::Arc;

use vmcask_dump::minidump::header::KernelMap;
use vmcask_dump::vm::leaves::{self, Leaf, Missing};
use vmcask_dump::vm::roots;
use vmcask_dump::{ElfCore, Minidump, PhysMem, ReadAt, VirtAddr};

use super::physical_view::{self, Alias, ELFOSABI_NONE, Options, Origin};
use super::{Runs, View};
use crate::error::{Error, Result};
use crate::input::Dump;

/// Pages may be mapped more than once, but a kernel doesn't map all of its
/// memory this often; page tables that a crash or an enemy has tied into
/// knots do.
const MOST_MAPPINGS_PER_PAGE: u64 = 4;
const MORE_MAPPINGS: u64 = 1 << 20;

/// The kernel view of a dump.
pub fn build(dump: &Dump, source: &Arc<dyn ReadAt>, options: &Options<'_>) -> Result<View> {
    let (runs, losses) = physical_view::runs(dump, source, options)?;
    let mut origin = Origin::of(dump, source)?;
    let mut aliases = Aliases {
        runs: &runs,
        list: Vec::new(),
        left: (runs.bytes() / 4096)
            .saturating_mul(MOST_MAPPINGS_PER_PAGE)
            .saturating_add(MORE_MAPPINGS),
        absent: 0,
    };
    let (missing, direct) = match dump {
        Dump::Minidump(d) => aliases.of_minidump(d, &**d)?,
        Dump::Elf(c) => {
            if let Some(tables) = c.note().and_then(|n| n.minidump.as_ref()) {
                aliases.of_minidump(tables, &**c)?
            } else {
                let (tables, missing, direct) = aliases.of_page_tables(c)?;
                origin.set_page_tables(tables.root.0, tables.levels);
                (missing, direct)
            }
        }
    };
    let absent = aliases.absent;
    let list = aliases.list;
    // Without a direct map (i386) a physical page has no kernel address:
    // all ones, as powerpc's kernel writes it.
    let none = if origin.arch.is_64() { u64::MAX } else { u32::MAX.into() };
    let mut view = origin.parts(&runs, "kernel", options).build_with(
        ELFOSABI_NONE,
        &|pa| direct.and_then(|d| d.vaddr(pa)).unwrap_or(none),
        &list,
    )?;
    view.losses.extend(losses);
    if missing.tables > 0 {
        view.remarks.push(format!(
            "{} page-table pages are not in the dump; what they map is left out",
            missing.tables
        ));
    }
    if absent > 0 {
        view.remarks.push(format!("{absent} mapped pages are not in the dump"));
    }
    Ok(view)
}

/// The direct map: `va = base + (pa - phys)` up to `end`.
#[derive(Clone, Copy, Debug)]
struct Direct {
    base: u64,
    end: u64,
    phys: u64,
}

impl Direct {
    fn vaddr(self, pa: u64) -> Option<u64> {
        let va = self.base.checked_add(pa.checked_sub(self.phys)?)?;
        (va < self.end).then_some(va)
    }
}

/// Collects kernel addresses whose bytes are in the dump.
struct Aliases<'a> {
    runs: &'a Runs,
    list: Vec<Alias>,
    /// Mappings still taken.
    left: u64,
    /// Pages mapped, but not in the dump.
    absent: u64,
}

impl Aliases<'_> {
    fn of_minidump(
        &mut self,
        tables: &Minidump,
        phys: &dyn PhysMem,
    ) -> Result<(Missing, Option<Direct>)> {
        let header = tables.header();
        if matches!(header.map, KernelMap::Arm { .. } | KernelMap::Powerpc64 { .. }) {
            return Err(Error::Unsupported(format!(
                "the kernel map of {} dumps can't be followed; --to elf writes the physical view",
                header.arch
            )));
        }
        let missing = leaves::of_minidump(tables, phys, &mut |leaf| self.add(leaf))
            .map_err(Error::Mappings)?;
        let direct = header.direct_map().map(|(b, e, phys)| Direct { base: b.0, end: e.0, phys });
        Ok((missing, direct))
    }

    fn of_page_tables(
        &mut self,
        core: &ElfCore,
    ) -> Result<(vmcask_dump::vm::amd64::PageTables, Missing, Option<Direct>)> {
        let found = core.page_tables().ok_or_else(|| {
            Error::Unsupported(
                "no page tables were found in the core; name the kernel image with --kernel".into(),
            )
        })?;
        let tables = found.tables;
        let layout = roots::layout(core, &tables).map_err(Error::Mappings)?;
        let missing = leaves::of_page_tables(
            &tables,
            core,
            layout.kernbase,
            VirtAddr(u64::MAX),
            &mut |leaf| self.add(leaf),
        )
        .map_err(Error::Mappings)?;
        let direct =
            layout.direct_map.map(|(base, end)| Direct { base: base.0, end: end.0, phys: 0 });
        Ok((tables, missing, direct))
    }

    /// Takes the parts of a mapping that the dump has.
    fn add(&mut self, leaf: Leaf) -> vmcask_dump::Result<()> {
        self.left = self.left.checked_sub(1).ok_or_else(|| {
            vmcask_dump::Error::Unsupported(
                "the page tables map the dump's pages over and over; --to elf writes the \
                 physical view"
                    .into(),
            )
        })?;
        let mut at = leaf.pa.0;
        let Some(end) = at.checked_add(leaf.len) else { return Ok(()) };
        let mut next = self.runs.first_ending_after(at);
        while let Some(run) = self.runs.get(next).filter(|r| r.pa < end) {
            self.absent += run.pa.saturating_sub(at) / 4096;
            let start = at.max(run.pa);
            let stop = end.min(run.pa + run.len);
            // The top of the address space may be too small for what is mapped.
            let Some(va) = leaf.va.0.checked_add(start - leaf.pa.0) else { return Ok(()) };
            self.push(Alias { va, pa: start, len: stop - start, run: next as u32 });
            at = stop;
            next += 1;
        }
        self.absent += (end - at.min(end)) / 4096;
        Ok(())
    }

    fn push(&mut self, alias: Alias) {
        if let Some(last) = self.list.last_mut()
            && last.run == alias.run
            && last.pa + last.len == alias.pa
            && last.va.checked_add(last.len) == Some(alias.va)
        {
            last.len += alias.len;
        } else {
            self.list.push(alias);
        }
    }
}
