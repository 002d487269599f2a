//! Sends cases over a connection that it renews when the server has closed it, and judges the answers.

use std::io::Read;
use std::net::SocketAddr;

use flate2::read::{GzDecoder, ZlibDecoder};
use serde_json::Value;

use super::cases::{Case, Expect, Then};
use crate::error::{Error, ErrorKind, Result};
use crate::http::{Connection, Response};

/// One client of the endurance test.
#[derive(Debug)]
pub(super) struct Client {
    address: SocketAddr,
    connection: Option<Connection>,
}

impl Client {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            connection: None,
        }
    }

    /// Sends `case` and judges what comes of it; the error says what was wrong.
    pub(super) fn run(&mut self, case: &Case) -> std::result::Result<(), String> {
        // The bytes of a case may leave a connection unusable, so only ordinary requests share one.
        let kept = if case.then == Then::Keep {
            self.connection.take()
        } else {
            None
        };
        let reused = kept.is_some();
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.open()?,
        };
        let mut result = attempt(&mut connection, case);
        // A server may close an idle or just refused connection at any time; that is no answer to this case.
        if reused
            && result
                .as_ref()
                .is_err_and(|error| error.kind() == ErrorKind::Io)
        {
            connection = self.open()?;
            result = attempt(&mut connection, case);
        }
        match result {
            Ok(keep) => {
                if keep && case.then == Then::Keep {
                    self.connection = Some(connection);
                }
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Io && case.expect == Expect::RefusalOrEnd => {
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn open(&self) -> std::result::Result<Connection, String> {
        Connection::open(self.address).map_err(|error| error.to_string())
    }
}

/// Sends a case once; true when the connection can be used again.
fn attempt(connection: &mut Connection, case: &Case) -> Result<bool> {
    let sent = connection.send(&case.wire);
    match case.then {
        Then::Leave => return Ok(false),
        Then::Finish if sent.is_ok() => {
            // A server that has refused may have closed; its answer still counts.
            let _ = connection.finish_sending();
        }
        Then::Finish | Then::Keep => {}
    }
    // A refusal may come, and the connection close, before all is sent: the answer decides.
    let response = match (connection.receive(), sent) {
        (Err(_), Err(unsent)) => return Err(unsent),
        (received, _) => received?,
    };
    judge(&response, &case.expect)?;
    Ok(!response.close)
}

/// Holds an answer against what was expected.
fn judge(response: &Response<'_>, expect: &Expect) -> Result<()> {
    let body = decoded(response)?;
    let split = response.json_bytes.unwrap_or(body.len()).min(body.len());
    let (json, binary) = body.split_at(split);
    let right = match expect {
        Expect::Success => response.status == 200,
        Expect::Binary(tensor) => response.status == 200 && binary == tensor,
        Expect::Data(data) => response.status == 200 && same_data(json, data),
        Expect::Refusal | Expect::RefusalOrEnd => {
            (400..500).contains(&response.status) && has_reason(json)
        }
        Expect::Nothing => true,
    };
    if right {
        return Ok(());
    }
    let start: String = String::from_utf8_lossy(json).chars().take(200).collect();
    Err(Error::protocol(format!(
        "status {}, {} binary bytes, {start}",
        response.status,
        binary.len()
    )))
}

fn decoded(response: &Response<'_>) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    let read = match response.encoding {
        None | Some("identity") => {
            body.extend_from_slice(response.body);
            Ok(0)
        }
        Some("gzip") => GzDecoder::new(response.body).read_to_end(&mut body),
        Some("deflate") => ZlibDecoder::new(response.body).read_to_end(&mut body),
        Some(other) => return Err(Error::protocol(format!("an answer in {other}"))),
    };
    read.map_err(|error| Error::caused(ErrorKind::Protocol, "decoding an answer", error))?;
    Ok(body)
}

/// Whether the first output's data equal `expected`, numbers by value.
fn same_data(json: &[u8], expected: &Value) -> bool {
    let Ok(answer) = serde_json::from_slice::<Value>(json) else {
        return false;
    };
    let (Some(got), Some(expected)) =
        (answer["outputs"][0]["data"].as_array(), expected.as_array())
    else {
        return false;
    };
    let same = |(got, expected): (&Value, &Value)| match (got.as_f64(), expected.as_f64()) {
        (Some(got), Some(expected)) => got == expected,
        _ => got == expected,
    };
    got.len() == expected.len() && got.iter().zip(expected).all(same)
}

fn has_reason(json: &[u8]) -> bool {
    serde_json::from_slice::<Value>(json)
        .ok()
        .and_then(|answer| answer["error"].as_str().map(|reason| !reason.is_empty()))
        .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::super::valid::gzip_of;
    use super::*;
    use serde_json::json;

    fn response<'a>(status: u16, body: &'a [u8], json_bytes: Option<usize>) -> Response<'a> {
        Response {
            status,
            body,
            json_bytes,
            encoding: None,
            close: false,
        }
    }

    #[test]
    fn right_answers_pass_and_wrong_ones_do_not() {
        let tensor = Expect::Binary(vec![1, 2]);
        assert!(judge(&response(200, b"{}\x01\x02", Some(2)), &tensor).is_ok());
        assert!(judge(&response(200, b"{}\x01\x03", Some(2)), &tensor).is_err());
        assert!(judge(&response(500, b"{}\x01\x02", Some(2)), &tensor).is_err());
        let data = Expect::Data(json!([1, 2]));
        assert!(
            judge(
                &response(200, br#"{"outputs":[{"data":[1.0,2.0]}]}"#, None),
                &data
            )
            .is_ok()
        );
        assert!(
            judge(
                &response(200, br#"{"outputs":[{"data":[1.0]}]}"#, None),
                &data
            )
            .is_err()
        );
        let refusal = br#"{"error":"no"}"#;
        assert!(judge(&response(400, refusal, None), &Expect::Refusal).is_ok());
        assert!(judge(&response(500, refusal, None), &Expect::Refusal).is_err());
        assert!(judge(&response(400, b"", None), &Expect::Refusal).is_err());
    }

    #[test]
    fn compressed_answers_are_read() {
        let body = gzip_of(b"{}\x01\x02");
        let mut answer = response(200, &body, Some(2));
        answer.encoding = Some("gzip");
        assert!(judge(&answer, &Expect::Binary(vec![1, 2])).is_ok());
    }
}
