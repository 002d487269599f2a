//! What the echo servers have in common.

use std::io;

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
        let mut options = Self { port: 0, threads: 2 };
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
        Builder::new_multi_thread().worker_threads(self.threads).enable_all().build()
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
#[allow(dead_code, reason = "only the ceiling builds its answer ahead")]
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
