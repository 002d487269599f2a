//! Intervals of `os_signpost`, which Instruments shows.

mod message;
#[cfg(target_os = "macos")]
mod raw;

#[cfg(target_os = "macos")]
pub(super) use self::intervals::Intervals;

#[cfg(target_os = "macos")]
mod intervals {
    use super::message::Message;
    use super::raw::{Log, Phase};
    use crate::error::Result;
    use crate::profiling::SlowPath;

    /// The log that the intervals are written to.
    #[derive(Debug)]
    pub(in crate::profiling) struct Intervals(Log);

    impl Intervals {
        pub(in crate::profiling) const NAME: &'static str = "os_signpost";

        pub(in crate::profiling) fn open() -> Result<Self> {
            Log::create(c"dev.weldpool", c"allocator").map(Self)
        }

        /// Returns the number that pairs the ends; 0, which no interval has, where nobody records.
        pub(in crate::profiling) fn begin(&self, path: SlowPath, bytes: u64) -> u64 {
            if !self.0.is_enabled() {
                return 0;
            }
            let id = self.0.new_id();
            self.0.emit(Phase::Begin, id, path, &Message::of(bytes));
            id
        }

        pub(in crate::profiling) fn end(&self, path: SlowPath, id: u64, bytes: u64) {
            if id != 0 {
                self.0.emit(Phase::End, id, path, &Message::of(bytes));
            }
        }
    }
}
