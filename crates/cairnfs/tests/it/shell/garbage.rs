//! Anything at all is sent to every port: servers stay up, and do not grow.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
};

use cairn_proto::frame::{FixedHeader, FrameType, MAGIC};

use super::{
    support::{Cluster, runs},
    tree::noise,
};

/// Growth of a server that is more than caches warming up, in kB.
const GROWTH_MAX: u64 = 64 * 1024;

fn resident_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What is sent, each on a connection of its own.
fn garbage() -> Vec<Vec<u8>> {
    let mut sent: Vec<Vec<u8>> = vec![Vec::new(), vec![0; 40], vec![0xff; 40], vec![0xff; 4096]];
    sent.push(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec());
    sent.extend((0..40).map(|seed| noise(seed, 1 + (seed as usize * 997) % 100_000)));
    // The magic of the protocol, then noise, so that the first look does not refuse it.
    sent.extend((0..20).map(|seed| [MAGIC.to_vec(), noise(seed, (seed as usize * 13) % 200)].concat()));
    // Frames that promise more than there may be.
    let max = u32::MAX.to_le_bytes();
    for frame_type in 0..=12 {
        for lens in [[max, [0; 4]], [[0; 4], max], [max, max]] {
            let head = [&MAGIC[..], &[1, frame_type], &[0; 18], &lens.concat(), &[0; 8]].concat();
            sent.push([head, noise(1, 5000)].concat());
        }
    }
    // Whole frames with a good checksum, but with a header that is no message; and parts of them.
    let hello = FixedHeader::new(FrameType::Hello, 0, 0).seal(&[]).to_vec();
    for (seed, op) in [0, 257, 258, 261, 513, 518, 769, 781, 60_000].into_iter().enumerate() {
        let message = noise(seed as u64, 300);
        let request = FixedHeader::new(FrameType::Request, 1, op).seal(&message);
        let frame = [&request[..], &message].concat();
        let all = [hello.clone(), frame.clone(), frame.clone(), frame].concat();
        sent.extend([1, 39, 40, 41, 79, 81, 200, all.len()].map(|len| all[..len].to_vec()));
    }
    sent
}

#[test]
fn garbage_leaves_servers_up_and_small() {
    let cluster = Cluster::start_processes();
    cluster.run_with(&noise(1, 1 << 20), ["put", "-", "/before"]).quiet();
    let pids = cluster.pids();
    let send_all = || {
        for port in cluster.base_port..cluster.base_port + 4 {
            for garbage in garbage() {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
                // The server may close at the first wrong byte.
                let _ = stream.write_all(&garbage);
                let _ = stream.shutdown(Shutdown::Write);
                let _ = stream.read_to_end(&mut Vec::new());
            }
        }
    };
    send_all();
    let before: Vec<u64> = pids.iter().map(|pid| resident_kb(*pid)).collect();
    for _ in 0..4 {
        send_all();
    }
    for (pid, before) in pids.iter().zip(before) {
        assert!(runs(*pid));
        let after = resident_kb(*pid);
        assert!(after < before + GROWTH_MAX, "process {pid} grew from {before} kB to {after} kB");
    }
    assert_eq!(cluster.pids(), pids);
    assert!(cluster.run(["cat", "/before"]).stdout == noise(1, 1 << 20));
    cluster.run_with(b"after", ["put", "-", "/after"]).quiet();
    assert_eq!(cluster.said(), "");
}
