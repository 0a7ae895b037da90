//! The codec of the log: any bytes are a record or an error, and a record's own bytes are read as that record.

use streams::codec;

/// Reads the bytes as a record, and the record's bytes again.
///
/// # Panics
/// Where the promise is broken.
pub fn check(bytes: &[u8]) {
    let Ok(record) = codec::decode_value(bytes) else { return };
    let mut written = Vec::new();
    codec::encode(&record, &mut written);
    let read = codec::decode(record.symbol().as_bytes(), &written);
    assert_eq!(read.as_ref(), Ok(&record), "{}", String::from_utf8_lossy(&written));
    // Equal numbers may differ in their bits; their texts then differ too.
    let mut again = Vec::new();
    if let Ok(read) = &read {
        codec::encode(read, &mut again);
    }
    assert_eq!(String::from_utf8_lossy(&again), String::from_utf8_lossy(&written));
}
