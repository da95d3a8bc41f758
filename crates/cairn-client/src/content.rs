//! What a write takes: anything that is bytes, without a copy where that is possible.

use bytes::Bytes;

/// Bytes to be written. `Bytes` and `Vec<u8>` are taken over; slices and arrays are copied once.
#[derive(Clone, Debug, Default)]
pub struct Content(pub(crate) Bytes);

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}
impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}
impl From<&Vec<u8>> for Content {
    fn from(bytes: &Vec<u8>) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }
}
impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }
}
impl<const N: usize> From<&[u8; N]> for Content {
    fn from(bytes: &[u8; N]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }
}
impl<const N: usize> From<[u8; N]> for Content {
    fn from(bytes: [u8; N]) -> Self {
        Self(Bytes::copy_from_slice(&bytes))
    }
}
impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}
impl From<String> for Content {
    fn from(text: String) -> Self {
        Self(text.into_bytes().into())
    }
}
