//! The limits of a connection, checked once before a server starts.

use std::time::Duration;

use super::error::{Error, ErrorKind, Result};

/// The largest [`Limits::header_count_max`]; the parser keeps its table of this size on the stack.
pub(crate) const HEADER_COUNT_CAP: usize = 128;

/// The limits that one server puts on its connections. Every field may be changed;
/// [`Limits::validate`] tells whether the whole makes sense.
///
/// A connection holds `header_bytes_max` bytes of buffer for as long as it is open, so idle
/// connections cost at most `connections_max * header_bytes_max` bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's head, and of the read buffer of a connection. A larger head is
    /// answered with 431, a request line that alone is larger with 414. The same number bounds
    /// the chunk extensions and the trailers of one body. Default 16 KiB.
    pub header_bytes_max: usize,
    /// Header fields of one request; more are answered with 431. At most 128. Default 64.
    pub header_count_max: usize,
    /// Bytes of one body as it is sent, framing excluded; more are answered with 413.
    /// Default 64 MiB.
    pub body_bytes_max: u64,
    /// Bytes of one body after its content coding is undone, which is what stops a small body
    /// that decodes to a large one. Default 64 MiB.
    pub decoded_bytes_max: u64,
    /// Bytes of an unread body that are read and thrown away to keep a connection alive when a
    /// handler answers early; with more left the connection is closed. Default 64 KiB.
    pub drain_bytes_max: u64,
    /// Connections open at once. One more waits in the system's queue until another closes; while
    /// any waits, answers close their connections and the connection idle longest is closed.
    /// Default 1024.
    pub connections_max: u32,
    /// Pipelined requests answered from bytes already received before other connections get a
    /// turn. Default 16.
    pub pipeline_depth_max: u32,
    /// Time for a request's head, from its first byte to its last. Default 10 s.
    pub header_time: Duration,
    /// Time a body may stand still. Default 30 s.
    pub body_idle_time: Duration,
    /// Lowest mean rate of a body in bytes per second, after `body_idle_time` of grace; zero for
    /// none. Default 240.
    pub body_rate_min: u64,
    /// Time a connection may stay open without a request. Default 75 s.
    pub keep_alive_idle_time: Duration,
    /// Time a response may stand still because the client does not read. Default 30 s.
    pub write_idle_time: Duration,
    /// Time for which what a client still sends is read and thrown away before a connection with
    /// unread input is closed, so that the answer is not lost to a reset. Default 1 s.
    pub linger_time: Duration,
    /// Whether responses carry a `Date` header, as RFC 9110 asks of a server with a clock.
    /// Default true.
    pub date_header: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes_max: 16 << 10,
            header_count_max: 64,
            body_bytes_max: 64 << 20,
            decoded_bytes_max: 64 << 20,
            drain_bytes_max: 64 << 10,
            connections_max: 1024,
            pipeline_depth_max: 16,
            header_time: Duration::from_secs(10),
            body_idle_time: Duration::from_secs(30),
            body_rate_min: 240,
            keep_alive_idle_time: Duration::from_secs(75),
            write_idle_time: Duration::from_secs(30),
            linger_time: Duration::from_secs(1),
            date_header: true,
        }
    }
}

impl Limits {
    /// Checks that every limit is usable.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidLimit`], naming the first limit that is not.
    pub fn validate(&self) -> Result<()> {
        let invalid = |message: String| Err(Error::new(ErrorKind::InvalidLimit, message));
        let sizes = [
            (
                "header_bytes_max",
                self.header_bytes_max as u64,
                512,
                1 << 20,
            ),
            (
                "header_count_max",
                self.header_count_max as u64,
                1,
                HEADER_COUNT_CAP as u64,
            ),
            ("body_bytes_max", self.body_bytes_max, 1, 1 << 50),
            ("decoded_bytes_max", self.decoded_bytes_max, 1, 1 << 50),
            ("drain_bytes_max", self.drain_bytes_max, 0, 1 << 30),
            (
                "connections_max",
                u64::from(self.connections_max),
                1,
                1 << 20,
            ),
            (
                "pipeline_depth_max",
                u64::from(self.pipeline_depth_max),
                1,
                1 << 20,
            ),
            ("body_rate_min", self.body_rate_min, 0, 1 << 40),
        ];
        for (name, value, least, most) in sizes {
            if value < least || value > most {
                return invalid(format!(
                    "{name} is {value}; it must be from {least} to {most}"
                ));
            }
        }
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let times = [
            ("header_time", self.header_time),
            ("body_idle_time", self.body_idle_time),
            ("keep_alive_idle_time", self.keep_alive_idle_time),
            ("write_idle_time", self.write_idle_time),
        ];
        for (name, value) in times {
            if value.is_zero() || value > DAY {
                return invalid(format!(
                    "{name} is {value:?}; it must be above zero, one day at most"
                ));
            }
        }
        if self.linger_time > DAY {
            return invalid(format!(
                "linger_time is {:?}; it must be one day at most",
                self.linger_time
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        Limits::default().validate().unwrap();
    }

    #[test]
    fn an_unusable_limit_is_named() {
        let default = Limits::default;
        let cases: [(&str, Limits); 8] = [
            (
                "header_bytes_max",
                Limits {
                    header_bytes_max: 511,
                    ..default()
                },
            ),
            (
                "header_count_max",
                Limits {
                    header_count_max: HEADER_COUNT_CAP + 1,
                    ..default()
                },
            ),
            (
                "body_bytes_max",
                Limits {
                    body_bytes_max: 0,
                    ..default()
                },
            ),
            (
                "connections_max",
                Limits {
                    connections_max: 0,
                    ..default()
                },
            ),
            (
                "pipeline_depth_max",
                Limits {
                    pipeline_depth_max: 0,
                    ..default()
                },
            ),
            (
                "header_time",
                Limits {
                    header_time: Duration::ZERO,
                    ..default()
                },
            ),
            (
                "write_idle_time",
                Limits {
                    write_idle_time: Duration::MAX,
                    ..default()
                },
            ),
            (
                "linger_time",
                Limits {
                    linger_time: Duration::MAX,
                    ..default()
                },
            ),
        ];
        for (name, limits) in cases {
            let error = limits.validate().expect_err(name);
            assert_eq!(error.kind(), ErrorKind::InvalidLimit, "{name}");
            assert!(error.message().starts_with(name), "{error}");
        }
    }
}
