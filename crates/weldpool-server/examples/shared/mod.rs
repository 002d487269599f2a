//! What the echo servers have in common.

#![allow(dead_code, reason = "each server uses a part of this")]

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::{Builder, Runtime};

/// The header that says how many bytes of a body are JSON.
pub(crate) const JSON_LENGTH: &str = "Inference-Header-Content-Length";

/// Options of an echo server.
#[derive(Debug)]
pub(crate) struct Options {
    /// Port on the loopback interface; zero lets the system choose.
    pub(crate) port: u16,
    /// Threads of the runtime.
    pub(crate) threads: usize,
}

impl Options {
    /// The options on the command line.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] for anything that is not understood.
    pub(crate) fn from_args() -> io::Result<Self> {
        let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidInput, text.to_owned());
        let mut options = Self {
            port: 0,
            threads: 2,
        };
        let mut args = std::env::args().skip(1);
        while let Some(name) = args.next() {
            let value = args.next().and_then(|value| value.parse::<u16>().ok());
            let value = value.ok_or_else(|| invalid(&format!("{name} needs a number")))?;
            match name.as_str() {
                "--port" => options.port = value,
                "--threads" => options.threads = usize::from(value).max(1),
                _ => return Err(invalid(&format!("{name} is not an option"))),
            }
        }
        Ok(options)
    }

    /// A runtime with as many threads as were asked for.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub(crate) fn runtime(&self) -> io::Result<Runtime> {
        Builder::new_multi_thread()
            .worker_threads(self.threads)
            .enable_all()
            .build()
    }
}

/// The JSON of an identity answer with `length` bytes behind it.
#[must_use]
pub(crate) fn answer_json(length: usize) -> String {
    format!(
        concat!(
            r#"{{"model_name":"identity","model_version":"1","outputs":[{{"name":"OUTPUT0","#,
            r#""datatype":"UINT8","shape":[1,{}],"parameters":{{"binary_data_size":{}}}}}]}}"#
        ),
        length, length
    )
}

/// A complete response with `length` bytes of tensor.
#[must_use]
pub(crate) fn whole_answer(length: usize) -> Vec<u8> {
    let json = answer_json(length);
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n{JSON_LENGTH}: {}\r\n\
         Content-Length: {}\r\n\r\n{json}",
        json.len(),
        json.len() + length
    )
    .into_bytes();
    answer.resize(answer.len() + length, 0);
    answer
}

const ALIGNMENT: usize = 256;

/// Aligned buffers of one length, kept for the next request. Both servers use it so that only the way
/// into it differs. Pool memory proper would not do: `hyper` cannot write from it, because it is
/// readable only through a guard, and a guard cannot be moved along with its buffer.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<Vec<Vec<u8>>>);

/// A buffer of a [`Pool`].
#[derive(Debug)]
pub(crate) struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
    pool: Arc<Pool>,
}

impl Pool {
    /// A buffer of `length` bytes.
    pub(crate) fn allocate(self: &Arc<Self>, length: usize) -> Aligned {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let memory = kept
            .filter(|memory| memory.len() == length + ALIGNMENT)
            .unwrap_or_else(|| vec![0; length + ALIGNMENT]);
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Aligned {
            memory,
            start,
            length,
            pool: self.clone(),
        }
    }
}

impl Aligned {
    /// The buffer's bytes.
    pub(crate) fn contents(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        self.pool
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(memory);
    }
}
