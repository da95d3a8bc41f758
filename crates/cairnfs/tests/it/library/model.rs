//! Random operations on a file equal the same operations on bytes in memory.

use super::cluster::{BLOCK_LEN, Cluster};
use cairn_client::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

const FILE_MAX: usize = 6 * BLOCK_LEN as usize;
const OPERATIONS: usize = 3400;

/// The same file twice: in the cluster and in memory.
struct Pair {
    file: File,
    model: Vec<u8>,
    random: fastrand::Rng,
}

impl Pair {
    fn bytes(&mut self, max: usize) -> Vec<u8> {
        // Mostly small, sometimes several blocks, often at the edges that code likes to get wrong.
        let len = match self.random.u8(..10) {
            0 => self.random.usize(..max),
            1 => (BLOCK_LEN as usize).min(max),
            2..6 => self.random.usize(..5000.min(max)),
            _ => self.random.usize(..100),
        };
        let salt = self.random.u8(..);
        (0..len).map(|i| (i as u8).wrapping_add(salt) | 1).collect()
    }

    fn place(&mut self) -> usize {
        match self.random.u8(..8) {
            0 => 0,
            1 => self.model.len(),
            2 => self.random.usize(..FILE_MAX / BLOCK_LEN as usize) * BLOCK_LEN as usize,
            3 => (self.random.usize(..FILE_MAX / BLOCK_LEN as usize) * BLOCK_LEN as usize).saturating_sub(1),
            _ => self.random.usize(..FILE_MAX),
        }
    }

    fn write_model(&mut self, offset: usize, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let end = offset + data.len();
        if self.model.len() < end {
            self.model.resize(end, 0);
        }
        self.model[offset..end].copy_from_slice(data);
    }

    async fn step(&mut self) {
        match self.random.u8(..20) {
            0..6 => {
                let (offset, data) = (self.place(), self.bytes(2 * BLOCK_LEN as usize));
                self.file.write_at(offset as u64, data.clone()).await.unwrap();
                self.write_model(offset, &data);
            }
            6 | 7 => {
                let (index, data) = (self.random.usize(..6), self.bytes(BLOCK_LEN as usize));
                self.file.write_block(index as u64, data.clone()).await.unwrap();
                self.write_model(index * BLOCK_LEN as usize, &data);
            }
            8 | 9 if self.model.len() < FILE_MAX => {
                let data = self.bytes(BLOCK_LEN as usize);
                let receipt = self.file.append(data.clone()).await.unwrap();
                assert_eq!(receipt.offset, self.model.len() as u64);
                self.model.extend_from_slice(&data);
            }
            10 => {
                let size = if self.random.u8(..4) == 0 { 0 } else { self.place() };
                self.file.truncate(size as u64).await.unwrap();
                self.model.resize(size, 0);
            }
            11 => {
                let (offset, data) = (self.place(), self.bytes(3 * BLOCK_LEN as usize));
                let mut writer = self.file.writer();
                writer.seek(std::io::SeekFrom::Start(offset as u64)).await.unwrap();
                for part in data.chunks(7001) {
                    writer.write_all(part).await.unwrap();
                }
                writer.shutdown().await.unwrap();
                self.write_model(offset, &data);
            }
            12 => {
                let mut all = Vec::new();
                self.file.reader().read_to_end(&mut all).await.unwrap();
                assert!(all == self.model, "{} bytes streamed, {} expected", all.len(), self.model.len());
            }
            13 => {
                let index = self.random.usize(..7);
                let begin = (index * BLOCK_LEN as usize).min(self.model.len());
                let end = (begin + BLOCK_LEN as usize).min(self.model.len());
                let begin = if index * BLOCK_LEN as usize > self.model.len() { end } else { begin };
                assert!(self.file.read_block(index as u64).await.unwrap() == self.model[begin..end]);
            }
            14 => assert_eq!(self.file.len().await.unwrap(), self.model.len() as u64),
            _ => {
                let (offset, len) = (self.place(), self.random.usize(..2 * BLOCK_LEN as usize));
                let got = self.file.read_at(offset as u64, len).await.unwrap();
                let begin = offset.min(self.model.len());
                let end = (offset + len).min(self.model.len());
                assert!(got == self.model[begin..end.max(begin)], "{len} bytes at {offset}");
            }
        }
    }
}

/// 10,000 operations all together: overwritten middles, holes, truncates, appends, streams; half of them relaxed.
#[tokio::test(flavor = "multi_thread")]
async fn random_operations_equal_a_local_file() {
    let cluster = Cluster::start().await;
    let mut runs = Vec::new();
    for seed in [1, 2, 3] {
        // A client of its own: nothing is shared between the files but the servers.
        let client = cluster.client().await;
        let options = OpenOptions::new().relaxed(seed % 2 == 0);
        let file = client.open_with(format!("/model-{seed}"), options).await.unwrap();
        runs.push(tokio::spawn(async move {
            let mut pair = Pair { file, model: Vec::new(), random: fastrand::Rng::with_seed(seed) };
            for operation in 0..OPERATIONS {
                let step = std::panic::AssertUnwindSafe(pair.step());
                if let Err(panic) = futures_util::FutureExt::catch_unwind(step).await {
                    eprintln!("seed {seed}, operation {operation}");
                    std::panic::resume_unwind(panic);
                }
            }
            let mut all = Vec::new();
            pair.file.reader().read_to_end(&mut all).await.unwrap();
            assert!(all == pair.model);
        }));
    }
    for run in runs {
        run.await.unwrap();
    }
    cluster.stop().await;
}
