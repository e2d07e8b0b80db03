//! The archive's layout, as FORMAT.md describes it: constants and structs, no
//! behaviour.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a cell.
pub const CELL_SIZE: usize = 4096;
/// Frame of zstd 0.8 and later: a data frame.
pub const DATA_FRAME: u32 = 0xFD2F_B528;
/// Skippable frame of the head.
pub const HEAD_FRAME: u32 = 0x184D_2A50;
/// Skippable frame of the index.
pub const INDEX_FRAME: u32 = 0x184D_2A51;
/// Skippable frame of the locator.
pub const LOCATOR_FRAME: u32 = 0x184D_2A52;
/// Skippable frame of a checkpoint.
pub const CHECKPOINT_FRAME: u32 = 0x184D_2A53;
/// Skippable frame of zstd's seek table.
pub const SEEK_TABLE_FRAME: u32 = 0x184D_2A5E;
/// Last four bytes of a seek table.
pub const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
/// Most frames that zstd's seekable format allows.
pub const MAX_FRAMES: u64 = 1 << 27;
/// Bytes of a seek table's footer.
pub const SEEK_FOOTER_LEN: usize = 9;
/// Bytes of a seek table's entry without checksum.
pub const SEEK_ENTRY_LEN: usize = 8;
/// Bytes before a skippable frame's content.
pub const SKIPPABLE_HEADER_LEN: usize = 8;

/// `magic` of the head.
pub const HEAD_MAGIC: [u8; 8] = *b"vmcask\r\n";
/// `magic` of the locator.
pub const LOCATOR_MAGIC: [u8; 8] = *b"vmcaskLC";
/// `magic` of a checkpoint.
pub const CHECKPOINT_MAGIC: [u8; 8] = *b"vmcaskCP";
/// Cells that a checkpoint describes at most.
pub const WINDOW_CELLS: u64 = 4096;
/// Slots that checkpoints of one reordered stretch describe at most.
pub const MAX_ORDER_SLOTS: u64 = 1 << 20;
/// `format_version`.
pub const FORMAT_VERSION: u32 = 1;
/// Incompatible feature bits known here.
pub const KNOWN_INCOMPATIBLE: u64 = 0;
/// Compatible feature bit: `zstd -d` gives back the original.
pub const COMPATIBLE_PLAIN: u64 = 1;
/// Longest original, in bytes: sums of lengths stay far below 2^64.
pub const MAX_ORIGINAL_LEN: u64 = 1 << 60;

/// The original's length in checkpoints of a stream that hasn't ended yet.
pub(crate) const UNKNOWN_LEN: u64 = MAX_ORIGINAL_LEN;
/// Most sections that a reader looks at.
pub const MAX_SECTIONS: u32 = 1024;
/// Longest metadata and longest `dump_avail` that a reader takes, in bytes.
pub const MAX_SMALL_SECTION: u64 = 1 << 20;
/// Most cells in a frame.
pub const MAX_CELLS_PER_FRAME: u32 = 4096;
/// Cells in a frame unless asked otherwise.
pub const DEFAULT_CELLS_PER_FRAME: u32 = 6;
/// Cells in a frame of archives that are neither large nor of what compresses
/// well, unless asked otherwise.
pub const MIDDLE_CELLS_PER_FRAME: u32 = 5;
/// Cells in a block of those frames.
pub const MIDDLE_CELLS_PER_BLOCK: u32 = 3;
/// Cells in a frame of large archives, or of what compresses badly, unless asked
/// otherwise.
pub const LARGE_CELLS_PER_FRAME: u32 = 4;
/// Cells in a block of those frames.
pub const LARGE_CELLS_PER_BLOCK: u32 = 2;
/// Bytes of extents from which on an archive is large.
pub const LARGE: u64 = 1 << 30;
/// Cells in a block of a frame unless asked otherwise.
pub const DEFAULT_CELLS_PER_BLOCK: u32 = 4;
/// Sections start at multiples of this.
pub const SECTION_ALIGN: u64 = 64;
/// Bytes of a section that share a checksum.
pub const CHUNK_LEN: usize = 65_536;
/// Bytes of a checksum.
pub const CHECKSUM_LEN: usize = 8;
/// Flag of a section that a reader must know.
pub const SECTION_REQUIRED: u32 = 1;
/// Frames that share a base.
pub const FRAMES_PER_BASE: usize = 64;
/// Bytes of zeros in a plain archive's frame for a hole.
pub const HOLE_FRAME_LEN: u64 = 16 << 20;

/// Most bytes of zeros in one: with the largest data frames.
pub const MAX_HOLE_FRAME: u32 = 64 << 20;

/// Kinds of sections.
pub mod kind {
    #![allow(missing_docs)]
    pub const SUMMARY: u32 = 1;
    pub const EXTENTS: u32 = 2;
    pub const CELL_WORDS: u32 = 3;
    pub const CELL_BLOCKS: u32 = 4;
    pub const CELL_SUPERBLOCKS: u32 = 5;
    pub const SLOT_TABLE: u32 = 6;
    pub const FRAME_BASES: u32 = 7;
    pub const FRAME_OFFSETS: u32 = 8;
    pub const FRAME_CHECKS: u32 = 9;
    pub const PAGE_MAP: u32 = 16;
    pub const PAGE_WORDS: u32 = 17;
    pub const PAGE_BLOCKS: u32 = 18;
    pub const PAGE_SUPERBLOCKS: u32 = 19;
    pub const SEGMENTS: u32 = 20;
    pub const METADATA: u32 = 32;
    pub const DIGEST: u32 = 33;
}

/// Flags of a checkpoint.
pub mod checkpoint_flag {
    #![allow(missing_docs)]
    pub const PLAIN: u32 = 1;
    pub const CONTINUES: u32 = 2;
    pub const LAST: u32 = 4;
    pub const REORDERED: u32 = 8;
}

macro_rules! layout {
    ($($(#[$doc:meta])* struct $name:ident { $($field:ident: $ty:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        #[allow(missing_docs)]
        pub struct $name { $(pub $field: $ty,)* }
    )*};
}

layout! {
    /// The head frame, FORMAT.md 2.
    struct Head {
        frame_magic: U32,
        frame_size: U32,
        magic: [u8; 8],
        format_version: U32,
        cell_size: U32,
        cells_per_frame: U32,
        cells_per_block: U32,
        incompatible: U64,
        compatible: U64,
    }

    /// A directory entry, FORMAT.md 4.
    struct DirectoryEntry {
        kind: U32,
        flags: U32,
        offset: U64,
        length: U64,
        checksum: [u8; CHECKSUM_LEN],
    }

    /// Section 1, FORMAT.md 4.
    struct Summary {
        original_length: U64,
        cells: U64,
        non_zero_cells: U64,
        slots: U64,
        frames: U64,
        slot_bits: U32,
        cells_per_frame: U32,
    }

    /// An extent in section 2, FORMAT.md 4.
    struct Extent {
        start: U64,
        end: U64,
        first_cell: U64,
    }

    /// Two ends of a range: in the digest, in checkpoints, of `dump_avail`.
    struct Span {
        start: U64,
        end: U64,
    }

    /// The locator frame, FORMAT.md 5.
    struct Locator {
        frame_magic: U32,
        frame_size: U32,
        magic: [u8; 8],
        index_offset: U64,
        index_length: U64,
        directory_offset: U64,
        sections: U32,
        head_checksum: [u8; 4],
        directory_checksum: [u8; CHECKSUM_LEN],
        checksum: [u8; CHECKSUM_LEN],
    }

    /// The beginning of a checkpoint, FORMAT.md 11.
    struct Checkpoint {
        frame_magic: U32,
        frame_size: U32,
        magic: [u8; 8],
        checksum: [u8; CHECKSUM_LEN],
        original_length: U64,
        first_cell: U64,
        first_slot: U64,
        new_slots: U64,
        next_frame: U64,
        cells: U32,
        extents: U32,
        cells_per_frame: U32,
        flags: U32,
        body_length: U32,
        reserved: U32,
    }

    /// An entry of the seek table, FORMAT.md 6.
    struct SeekEntry {
        compressed: U32,
        decompressed: U32,
    }

    /// The beginning of section 16, FORMAT.md 10.
    struct PageMapHeader {
        page_shift: U32,
        reserved: U32,
        first_page: U64,
        pages: U64,
    }

    /// A segment in section 20, FORMAT.md 10.
    struct Segment {
        p_paddr: U64,
        p_vaddr: U64,
        p_offset: U64,
        p_filesz: U64,
        p_memsz: U64,
    }
}
