//! SQLCipher's cryptography, on `ring` and `aes` instead of OpenSSL: SQLCipher calls
//! [`ironclaw_sqlcipher_provider`] once (named by `SQLCIPHER_CRYPTO_CUSTOM` in `.cargo/config.toml`) and
//! gets a table of functions. The layout of that table is SQLCipher 4.19's `struct sqlcipher_provider`,
//! which is why `libsqlite3-sys` is pinned exactly and a test asserts the version.

use std::ffi::{c_char, c_int, c_uchar, c_void};
use std::num::NonZeroU32;

use ring::rand::{SecureRandom, SystemRandom};
use ring::{hmac, pbkdf2};

use super::cbc;

const OK: c_int = 0;
const ERROR: c_int = 1;
const SHA1: c_int = 0;
const SHA256: c_int = 1;
const SHA512: c_int = 2;
const KEY_LENGTH: c_int = 32;
const BLOCK_LENGTH: c_int = 16;
const ENCRYPT: c_int = 1;

/// The table that SQLCipher reads, field by field in its order.
#[repr(C)]
pub struct Provider {
    init: Option<unsafe extern "C" fn() -> c_int>,
    shutdown: Option<unsafe extern "C" fn()>,
    get_provider_name: unsafe extern "C" fn(*mut c_void) -> *const c_char,
    add_random: unsafe extern "C" fn(*mut c_void, *const c_void, c_int) -> c_int,
    random: unsafe extern "C" fn(*mut c_void, *mut c_void, c_int) -> c_int,
    hmac: unsafe extern "C" fn(
        *mut c_void,
        c_int,
        *const c_uchar,
        c_int,
        *const c_uchar,
        c_int,
        *const c_uchar,
        c_int,
        *mut c_uchar,
    ) -> c_int,
    kdf: unsafe extern "C" fn(
        *mut c_void,
        c_int,
        *const c_uchar,
        c_int,
        *const c_uchar,
        c_int,
        c_int,
        c_int,
        *mut c_uchar,
    ) -> c_int,
    cipher: unsafe extern "C" fn(
        *mut c_void,
        c_int,
        *const c_uchar,
        c_int,
        *const c_uchar,
        *const c_uchar,
        c_int,
        *mut c_uchar,
    ) -> c_int,
    get_cipher: unsafe extern "C" fn(*mut c_void) -> *const c_char,
    get_key_sz: unsafe extern "C" fn(*mut c_void) -> c_int,
    get_iv_sz: unsafe extern "C" fn(*mut c_void) -> c_int,
    get_block_sz: unsafe extern "C" fn(*mut c_void) -> c_int,
    get_hmac_sz: unsafe extern "C" fn(*mut c_void, c_int) -> c_int,
    ctx_init: unsafe extern "C" fn(*mut *mut c_void) -> c_int,
    ctx_free: unsafe extern "C" fn(*mut *mut c_void) -> c_int,
    fips_status: unsafe extern "C" fn(*mut c_void) -> c_int,
    get_provider_version: unsafe extern "C" fn(*mut c_void) -> *const c_char,
    next: *mut c_void,
}

/// Fills SQLCipher's table. Called by SQLCipher itself while it initialises.
///
/// # Safety
/// `provider` is null or points to writable memory of the size of [`Provider`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ironclaw_sqlcipher_provider(provider: *mut Provider) -> c_int {
    if provider.is_null() {
        return ERROR;
    }
    let table = Provider {
        init: None,
        shutdown: None,
        get_provider_name: name,
        add_random,
        random,
        hmac: authenticate,
        kdf: derive,
        cipher: transform,
        get_cipher: cipher_name,
        get_key_sz: key_length,
        get_iv_sz: block_length,
        get_block_sz: block_length,
        get_hmac_sz: digest_length,
        ctx_init: context,
        ctx_free: context,
        fips_status: no,
        get_provider_version: version,
        next: std::ptr::null_mut(),
    };
    // SAFETY: SQLCipher hands over a struct of exactly this layout that it allocated; not null, checked above.
    unsafe { provider.write(table) };
    OK
}

/// Initialises SQLite and SQLCipher, once, and returns when that is done. To be called before the first
/// database is opened: SQLite calls itself initialised before it has run SQLCipher's part, so that a second
/// thread that opens a database meanwhile finds no cipher. It also keeps the provider in the executable: an
/// archive member that nothing names is left out by the linker, and the C side is linked after it.
pub fn initialise() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        std::hint::black_box(ironclaw_sqlcipher_provider as *const () as usize);
        // SAFETY: nothing has initialised SQLite yet, and this option takes two 64-bit sizes. Files are never mapped:
        // what is read must be a copy, and a file that gets shorter must be an error and not a signal.
        let _ =
            unsafe { rusqlite::ffi::sqlite3_config(rusqlite::ffi::SQLITE_CONFIG_MMAP_SIZE, 0_i64, 0_i64) };
        // SAFETY: it may be called at any time; a failure shows again when a database is opened.
        let _ = unsafe { rusqlite::ffi::sqlite3_initialize() };
    });
}

/// Room for `x'`, two digits a byte, and `'`.
const LITERAL: usize = 2 * KEY_LENGTH as usize + 3;

/// Gives a connection its file's raw key. SQLCipher takes it as the literal that `PRAGMA key` would hold, but as
/// bytes of ours that are wiped here, and not as a statement whose text would stay in SQLite's memory.
///
/// # Errors
/// When SQLCipher refuses it.
pub fn set_key(
    connection: &rusqlite::Connection,
    key: &[u8; KEY_LENGTH as usize],
) -> Result<(), rusqlite::Error> {
    let mut literal = [b'\''; LITERAL];
    let (head, digits) = literal.split_at_mut(2);
    head.copy_from_slice(b"x'");
    for (pair, byte) in digits.chunks_exact_mut(2).zip(key) {
        for (digit, nibble) in pair.iter_mut().zip([byte >> 4, byte & 15]) {
            *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
        }
    }
    // SAFETY: the connection is open as long as it is borrowed, and the literal is readable for its length.
    let code =
        unsafe { rusqlite::ffi::sqlite3_key(connection.handle(), literal.as_ptr().cast(), LITERAL as c_int) };
    super::memory::wipe(&mut literal);
    if code == rusqlite::ffi::SQLITE_OK {
        return Ok(());
    }
    Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None))
}

/// A slice over `length` bytes that C handed over; `None` when that is no usable range.
///
/// # Safety
/// `start` is null or readable for `length` bytes during `'a`.
unsafe fn bytes<'a>(start: *const c_uchar, length: c_int) -> Option<&'a [u8]> {
    let length = usize::try_from(length).ok()?;
    if start.is_null() {
        return (length == 0).then_some(&[]);
    }
    // SAFETY: the caller promises that the range is readable.
    Some(unsafe { std::slice::from_raw_parts(start, length) })
}

unsafe extern "C" fn name(_: *mut c_void) -> *const c_char {
    c"ironclaw-ring".as_ptr()
}

unsafe extern "C" fn version(_: *mut c_void) -> *const c_char {
    c"1".as_ptr()
}

unsafe extern "C" fn cipher_name(_: *mut c_void) -> *const c_char {
    c"aes-256-cbc".as_ptr()
}

unsafe extern "C" fn key_length(_: *mut c_void) -> c_int {
    KEY_LENGTH
}

unsafe extern "C" fn block_length(_: *mut c_void) -> c_int {
    BLOCK_LENGTH
}

unsafe extern "C" fn no(_: *mut c_void) -> c_int {
    0
}

unsafe extern "C" fn context(_: *mut *mut c_void) -> c_int {
    OK
}

/// The system's generator needs no seed from SQLCipher.
unsafe extern "C" fn add_random(_: *mut c_void, _: *const c_void, _: c_int) -> c_int {
    OK
}

unsafe extern "C" fn digest_length(_: *mut c_void, algorithm: c_int) -> c_int {
    match algorithm {
        SHA1 => 20,
        SHA256 => 32,
        SHA512 => 64,
        _ => 0,
    }
}

unsafe extern "C" fn random(_: *mut c_void, buffer: *mut c_void, length: c_int) -> c_int {
    let Ok(length) = usize::try_from(length) else { return ERROR };
    if buffer.is_null() {
        return ERROR;
    }
    // SAFETY: SQLCipher passes a buffer that is writable for `length` bytes.
    let buffer = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    if SystemRandom::new().fill(buffer).is_ok() { OK } else { ERROR }
}

unsafe extern "C" fn authenticate(
    _: *mut c_void,
    algorithm: c_int,
    key: *const c_uchar,
    key_length: c_int,
    first: *const c_uchar,
    first_length: c_int,
    second: *const c_uchar,
    second_length: c_int,
    out: *mut c_uchar,
) -> c_int {
    let algorithm = match algorithm {
        SHA1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        SHA256 => hmac::HMAC_SHA256,
        SHA512 => hmac::HMAC_SHA512,
        _ => return ERROR,
    };
    if first.is_null() || out.is_null() {
        return ERROR;
    }
    // SAFETY: SQLCipher passes ranges that are readable for their lengths; the second may be null.
    let (Some(key), Some(first)) = (unsafe { bytes(key, key_length) }, unsafe { bytes(first, first_length) })
    else {
        return ERROR;
    };
    let mut context = hmac::Context::with_key(&hmac::Key::new(algorithm, key));
    context.update(first);
    if !second.is_null() {
        // SAFETY: as above, and not null.
        let Some(second) = (unsafe { bytes(second, second_length) }) else { return ERROR };
        context.update(second);
    }
    let tag = context.sign();
    // SAFETY: `out` has room for the digest length that `digest_length` gave for this algorithm.
    unsafe { std::ptr::copy_nonoverlapping(tag.as_ref().as_ptr(), out, tag.as_ref().len()) };
    OK
}

unsafe extern "C" fn derive(
    _: *mut c_void,
    algorithm: c_int,
    pass: *const c_uchar,
    pass_length: c_int,
    salt: *const c_uchar,
    salt_length: c_int,
    rounds: c_int,
    key_length: c_int,
    key: *mut c_uchar,
) -> c_int {
    let algorithm = match algorithm {
        SHA1 => pbkdf2::PBKDF2_HMAC_SHA1,
        SHA256 => pbkdf2::PBKDF2_HMAC_SHA256,
        SHA512 => pbkdf2::PBKDF2_HMAC_SHA512,
        _ => return ERROR,
    };
    let Some(rounds) = u32::try_from(rounds).ok().and_then(NonZeroU32::new) else { return ERROR };
    let Ok(key_length) = usize::try_from(key_length) else { return ERROR };
    if key.is_null() {
        return ERROR;
    }
    // SAFETY: SQLCipher passes ranges that are readable for their lengths.
    let (Some(pass), Some(salt)) = (unsafe { bytes(pass, pass_length) }, unsafe { bytes(salt, salt_length) })
    else {
        return ERROR;
    };
    let mut derived = vec![0; key_length];
    pbkdf2::derive(algorithm, rounds, salt, pass, &mut derived);
    // SAFETY: `key` is writable for `key_length` bytes.
    unsafe { std::ptr::copy_nonoverlapping(derived.as_ptr(), key, key_length) };
    OK
}

unsafe extern "C" fn transform(
    _: *mut c_void,
    mode: c_int,
    key: *const c_uchar,
    key_length: c_int,
    iv: *const c_uchar,
    input: *const c_uchar,
    input_length: c_int,
    output: *mut c_uchar,
) -> c_int {
    if key_length != KEY_LENGTH || input_length % BLOCK_LENGTH != 0 || output.is_null() {
        return ERROR;
    }
    // SAFETY: SQLCipher passes a key and an initialisation vector of the lengths that we told it, and
    // `input_length` readable bytes.
    let (Some(key), Some(iv), Some(input)) =
        (unsafe { bytes(key, KEY_LENGTH) }, unsafe { bytes(iv, BLOCK_LENGTH) }, unsafe {
            bytes(input, input_length)
        })
    else {
        return ERROR;
    };
    // Input and output may be the same memory, so the work is done in a copy.
    let mut work = input.to_vec();
    let ((blocks, []), Ok(key), Ok(iv)) = (work.as_chunks_mut(), key.try_into(), iv.try_into()) else {
        return ERROR;
    };
    if mode == ENCRYPT {
        cbc::encrypt(key, iv, blocks)
    } else {
        cbc::decrypt(key, iv, blocks)
    }
    // SAFETY: `output` is writable for as many bytes as the input has.
    unsafe { std::ptr::copy_nonoverlapping(work.as_ptr(), output, work.len()) };
    OK
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_belongs_to_this_sqlcipher() {
        super::initialise();
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        connection.execute_batch("PRAGMA key = 'any'").unwrap();
        let ask =
            |what: &str| connection.query_row(&format!("PRAGMA {what}"), [], |row| row.get::<_, String>(0));
        assert_eq!(ask("cipher_version").unwrap(), "4.19.0 community");
        assert_eq!(ask("cipher_provider").unwrap(), "ironclaw-ring");
        assert_eq!(rusqlite::version(), "3.53.4");
    }

    #[test]
    fn no_file_is_ever_mapped() {
        super::initialise();
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        let size = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap_or(0);
        assert_eq!(size("PRAGMA mmap_size"), 0);
        assert_eq!(size("PRAGMA mmap_size=1048576"), 0);
    }
}
