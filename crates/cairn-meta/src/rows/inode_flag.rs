//! Bits of `flags` in the row of an inode.

/// It has an access ACL that says more than its mode.
pub const ACCESS_ACL: u32 = 1;
/// A directory with a default ACL.
pub const DEFAULT_ACL: u32 = 2;
/// A session made it without a name, and it was never given one: it may be.
pub const NAMELESS: u32 = 4;
/// A file that may have holes. What is kept of it has to be looked for in its map.
pub const SPARSE: u32 = 8;
