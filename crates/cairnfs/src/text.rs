//! Values as people read them: paths, sizes, modes, times. Pure.

use std::{
    fmt::Write as _,
    io,
    os::unix::{ffi::OsStrExt, process::ExitStatusExt},
    path::Path,
    process::ExitStatus,
};

use cairn_client::FileKind;

/// Seconds in the largest unit that leaves none over: `45s`, `90m`, `168h`.
pub fn seconds(seconds: u64) -> String {
    match seconds {
        s if s.is_multiple_of(3600) && s > 0 => format!("{}h", s / 3600),
        s if s.is_multiple_of(60) && s > 0 => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}

/// A path for a message or a terminal: UTF-8 as it is, but control characters, backslashes and bytes that are not
/// UTF-8 escaped, so that it stays on one line and cannot steer the terminal.
pub fn path(path: &Path) -> String {
    bytes(path.as_os_str().as_bytes())
}

/// As [`path`], for any bytes.
pub fn bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' || c.is_control() {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A size as `ls -h` writes it: `0`, `999`, `1.5K`, `20M`; rounded up, so that nothing looks smaller than it is.
pub fn human(bytes: u64) -> String {
    const UNITS: [char; 6] = ['K', 'M', 'G', 'T', 'P', 'E'];
    if bytes < 1024 {
        return bytes.to_string();
    }
    let mut unit = 0;
    let mut shift = 10;
    loop {
        // Tenths, rounded up, in 128 bits because 10 * u64::MAX does not fit 64.
        let tenths = (u128::from(bytes) * 10).div_ceil(1 << shift);
        if tenths < 100 {
            return format!("{}.{}{}", tenths / 10, tenths % 10, UNITS[unit]);
        }
        let whole = u128::from(bytes).div_ceil(1 << shift);
        if whole < 1024 || unit + 1 == UNITS.len() {
            return format!("{whole}{}", UNITS[unit]);
        }
        unit += 1;
        shift += 10;
    }
}

/// A size as asked for: human or exact.
pub fn size(bytes: u64, human_readable: bool) -> String {
    if human_readable { human(bytes) } else { bytes.to_string() }
}

/// A time in milliseconds, with as many places as matter: 0.042 ms, 1.27 ms, 350 ms.
pub fn millis(duration: std::time::Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    match ms {
        ms if ms < 1.0 => format!("{ms:.3} ms"),
        ms if ms < 100.0 => format!("{ms:.2} ms"),
        ms => format!("{ms:.0} ms"),
    }
}

/// A noun in the number that goes with a count.
pub fn noun(count: u64, noun: &str) -> String {
    match (count, noun.strip_suffix('y')) {
        (1, _) => noun.to_owned(),
        (_, Some(stem)) => format!("{stem}ies"),
        _ => format!("{noun}s"),
    }
}

/// A count with its noun, as `1 file`, `3 files`.
pub fn count(count: u64, what: &str) -> String {
    format!("{count} {}", noun(count, what))
}

/// The word for a kind of file.
pub fn kind(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice => "character device",
        FileKind::BlockDevice => "block device",
    }
}

/// Major and minor number of a device, as `8:1`; put together as makedev(3) of glibc does.
pub fn device(rdev: u64) -> String {
    let major = (rdev >> 8 & 0xfff) | (rdev >> 32 & 0xffff_f000);
    let minor = (rdev & 0xff) | (rdev >> 12 & 0xffff_ff00);
    format!("{major}:{minor}")
}

/// Kind and permissions as `ls -l` writes them, as `-rwsr-xr-x`.
pub fn mode(kind: FileKind, mode: u32) -> String {
    let mut text = String::with_capacity(10);
    text.push(match kind {
        FileKind::File => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
        FileKind::CharDevice => 'c',
        FileKind::BlockDevice => 'b',
    });
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Year, month, day, hour, minute, second (UTC) and nanoseconds of a time since 1970.
fn civil(time_ns: i64) -> (i64, u32, u32, u32, u32, u32, u32) {
    let seconds = time_ns.div_euclid(1_000_000_000);
    let ns = time_ns.rem_euclid(1_000_000_000) as u32;
    let second_of_day = seconds.rem_euclid(86_400) as u32;
    // Days to civil date: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days. Years begin
    // in March, so that the leap day is the last.
    let days = seconds.div_euclid(86_400) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 } as u32;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day, second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60, ns)
}

/// A time as `2026-11-23 18:26` (UTC).
pub fn minute(time_ns: i64) -> String {
    let (year, month, day, hour, minute, ..) = civil(time_ns);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}")
}

/// A time in RFC 3339 with nanoseconds (UTC).
pub fn rfc3339(time_ns: i64) -> String {
    let (year, month, day, hour, minute, second, ns) = civil(time_ns);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ns:09}Z")
}

/// A word for a shell: as it is where that is safe, else in single quotes.
pub fn shell_word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:,+@%=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// How a process ended, to go on a sentence about it.
pub fn ended(status: &io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with status {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => "ended".to_owned(),
        },
        Err(error) => format!("is out of sight: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn sizes_are_rounded_up() {
        for (bytes, text) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1.0K"),
            (1025, "1.1K"),
            (10_137, "9.9K"),
            (10_138, "10K"),
            (1_048_575, "1.0M"),
            (20 << 20, "20M"),
            (5 << 30, "5.0G"),
            (u64::MAX, "16E"),
        ] {
            assert_eq!(human(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn paths_stay_on_one_line() {
        assert_eq!(path(Path::new("/a b/é")), "/a b/é");
        assert_eq!(path(Path::new(OsStr::from_bytes(b"/n\nl\x1b[2J\xff\\"))), "/n\\nl\\u{1b}[2J\\xff\\\\");
    }

    #[test]
    fn modes_as_ls_writes_them() {
        assert_eq!(device(0x103), "1:3");
        assert_eq!(mode(FileKind::File, 0o644), "-rw-r--r--");
        assert_eq!(mode(FileKind::File, 0o4755), "-rwsr-xr-x");
        assert_eq!(mode(FileKind::Directory, 0o1777), "drwxrwxrwt");
        assert_eq!(mode(FileKind::Symlink, 0o777), "lrwxrwxrwx");
        assert_eq!(mode(FileKind::File, 0o7000), "---S--S--T");
    }

    #[test]
    fn times() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(rfc3339(951_782_400_000_000_007), "2000-02-29T00:00:00.000000007Z");
        assert_eq!(rfc3339(1_795_458_412_000_000_000), "2026-11-23T18:26:52.000000000Z");
        assert_eq!(minute(4_107_542_399_000_000_000), "2100-02-28 23:59");
    }

    #[test]
    fn counts_and_words() {
        assert_eq!(count(1, "file"), "1 file");
        assert_eq!(count(0, "directory"), "0 directories");
        assert_eq!(count(3, "file"), "3 files");
        assert_eq!(shell_word(Path::new("/tmp/x-1")), "/tmp/x-1");
        assert_eq!(shell_word(Path::new("/a b's")), r"'/a b'\''s'");
    }

    #[test]
    fn ends_are_described() {
        assert_eq!(ended(&Ok(ExitStatus::from_raw(9))), "was killed by signal 9");
        assert_eq!(ended(&Ok(ExitStatus::from_raw(256))), "ended with status 1");
    }
}
