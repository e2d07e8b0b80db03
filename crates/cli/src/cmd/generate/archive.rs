//! `--format archive`: the dump is made while it is archived.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use vmcask_archive::WriteOptions;
use vmcask_convert::{Input, OutputFile};
use vmcask_dump::ReadAt;
use vmcask_synth::SynthDump;

use crate::cmd::convert;

/// A synthetic dump as a source of bytes.
struct Source(Arc<SynthDump>);

impl ReadAt for Source {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        Ok(self.0.read_at(off, buf))
    }

    fn next_data(&self, off: u64) -> io::Result<Option<Range<u64>>> {
        Ok(self.0.next_data(off))
    }
}

/// Fills `out` with an archive of the minidump, not committed yet.
pub fn write(
    dump: &Arc<SynthDump>,
    path: &Path,
    out: &OutputFile,
    threads: usize,
    quiet: bool,
) -> Result<()> {
    let source: Arc<dyn ReadAt> = Arc::new(Source(dump.clone()));
    let input = Input::of_source(path, source)?;
    let plan = vmcask_convert::archive::plan(&input)?;
    let options = WriteOptions { threads, ..WriteOptions::suited_to(&plan, Some(&*input.source)) };
    convert::to_archive(&input, &plan, &options, out, quiet)?;
    Ok(())
}
