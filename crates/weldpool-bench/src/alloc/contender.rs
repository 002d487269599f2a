//! Who is measured, at which settings, and in which field.

use std::collections::BTreeMap;
use std::process::Command;

use super::cases::{Case, Field, Workload};
use super::heaps::malloc;

/// Variables that set up one of the allocators; a child process gets only those of its contender.
const VARIABLES: [&str; 6] = [
    GLIBC_TUNABLES,
    JEMALLOC_CONF,
    MIMALLOC_PURGE_DELAY,
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
];
const GLIBC_TUNABLES: &str = "GLIBC_TUNABLES";
const JEMALLOC_CONF: &str = "_RJEM_MALLOC_CONF";
const MIMALLOC_PURGE_DELAY: &str = "MIMALLOC_PURGE_DELAY";

/// An allocator at one setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contender {
    /// Weldpool with its default configuration.
    Ours,
    /// The C library's `malloc`.
    CLibrary,
    /// The C library's `malloc`, told never to give memory back.
    CLibraryKeeping,
    /// mimalloc as it comes.
    Mimalloc,
    /// mimalloc, told never to give memory back.
    MimallocKeeping,
    /// jemalloc as it comes.
    Jemalloc,
    /// jemalloc, told never to give memory back.
    JemallocKeeping,
    /// The crate `offset-allocator`.
    OffsetAllocator,
    /// The crate `rlsf`.
    Rlsf,
    /// VMA's virtual block, saving time.
    VmaTime,
    /// VMA's virtual block, saving memory.
    VmaMemory,
    /// The pools of CubeCL's runtime.
    Cubecl,
    /// A thread's own stack of numbers: no peer, but what the loop itself costs.
    Reference,
}

use Contender as C;

impl Contender {
    const ALL: [Self; 13] = [
        C::Ours,
        C::CLibrary,
        C::CLibraryKeeping,
        C::Mimalloc,
        C::MimallocKeeping,
        C::Jemalloc,
        C::JemallocKeeping,
        C::OffsetAllocator,
        C::Rlsf,
        C::VmaTime,
        C::VmaMemory,
        C::Cubecl,
        C::Reference,
    ];

    /// Those that `case` is measured with in this build, ours first.
    pub fn of(case: &Case, keeping_c_library: bool) -> Vec<Self> {
        let takes_part = |contender: &Self| match contender {
            C::Ours => true,
            C::Reference => matches!(
                case.workload,
                Workload::Pair(256) | Workload::Mixed(_) | Workload::ProducerConsumer(256)
            ),
            C::CLibrary => case.field == Field::Host,
            C::CLibraryKeeping => {
                case.field == Field::Host && keeping_c_library && cfg!(target_env = "gnu")
            }
            C::Mimalloc | C::MimallocKeeping | C::Jemalloc | C::JemallocKeeping => {
                case.field == Field::Host && cfg!(target_os = "linux")
            }
            C::OffsetAllocator | C::Rlsf => case.field == Field::Ranges,
            C::VmaTime | C::VmaMemory => {
                case.field == Field::Ranges && cfg!(feature = "suballocators")
            }
            // With thousands of small blocks its pools need tens of microseconds each time: shown once.
            C::Cubecl => {
                case.field == Field::Ranges
                    && case.workload != Workload::VirtualBlock(1)
                    && cfg!(feature = "suballocators")
            }
        };
        Self::ALL.into_iter().filter(takes_part).collect()
    }

    /// The name in the report.
    pub fn name(self) -> &'static str {
        match self {
            C::Ours => "weldpool",
            C::CLibrary if cfg!(target_env = "gnu") => "glibc",
            C::CLibrary => "system malloc",
            C::CLibraryKeeping => "glibc mmap_max=0,trim_threshold=max",
            C::Mimalloc => "mimalloc",
            C::MimallocKeeping => "mimalloc purge_delay=-1",
            C::Jemalloc => "jemalloc",
            C::JemallocKeeping => "jemalloc dirty_decay_ms:-1,muzzy_decay_ms:-1",
            C::OffsetAllocator => "offset-allocator",
            C::Rlsf => "rlsf",
            C::VmaTime => "vma min-time",
            C::VmaMemory => "vma min-memory",
            C::Cubecl => "cubecl",
            C::Reference => "reference",
        }
    }

    /// The contender of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|contender| contender.name() == name)
    }

    /// The peers that are allocators of host memory.
    pub(super) fn host() -> impl Iterator<Item = Self> {
        [
            C::CLibrary,
            C::CLibraryKeeping,
            C::Mimalloc,
            C::MimallocKeeping,
            C::Jemalloc,
            C::JemallocKeeping,
        ]
        .into_iter()
    }

    /// Whether figures are compared with ours.
    pub fn is_peer(self) -> bool {
        !matches!(self, C::Ours | C::Reference)
    }

    /// Gives `command` the settings of this contender and of no other.
    pub(crate) fn set_up(self, command: &mut Command) {
        for variable in VARIABLES {
            command.env_remove(variable);
        }
        match self {
            C::CLibraryKeeping => command.env(
                GLIBC_TUNABLES,
                "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=9223372036854775807",
            ),
            C::MimallocKeeping => command.env(MIMALLOC_PURGE_DELAY, "-1"),
            C::JemallocKeeping => command.env(JEMALLOC_CONF, "dirty_decay_ms:-1,muzzy_decay_ms:-1"),
            _ => command,
        };
    }
}

/// Versions of ours and of all peers in this build.
pub(crate) fn versions() -> BTreeMap<String, String> {
    let mut versions = vec![
        (C::Ours.name(), env!("CARGO_PKG_VERSION").to_owned()),
        (C::CLibrary.name(), malloc::c_library_version()),
        (C::OffsetAllocator.name(), "0.2.0".to_owned()),
        (C::Rlsf.name(), "0.2.3".to_owned()),
    ];
    #[cfg(all(target_os = "linux", feature = "allocators"))]
    versions.extend([
        (C::Mimalloc.name(), malloc::mimalloc_version()),
        (C::Jemalloc.name(), malloc::jemalloc_version()),
    ]);
    if cfg!(feature = "suballocators") {
        versions.extend([
            ("vma", "of vk-mem 0.5.0".to_owned()),
            (C::Cubecl.name(), "cubecl-runtime 0.10.0".to_owned()),
        ]);
    }
    versions
        .into_iter()
        .map(|(name, version)| (name.to_owned(), version))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_again() {
        for contender in C::ALL {
            assert_eq!(Contender::named(contender.name()), Some(contender));
        }
    }

    #[test]
    fn a_child_gets_the_settings_of_one_contender() {
        for contender in C::ALL {
            let mut command = Command::new("x");
            contender.set_up(&mut command);
            let set = command.get_envs().filter(|(_, value)| value.is_some());
            assert_eq!(
                set.count(),
                usize::from(contender.name().contains('=') || contender.name().contains(':')),
                "{contender:?}"
            );
        }
    }

    #[test]
    fn every_case_has_a_peer() {
        for case in Case::all(2, false) {
            let contenders = Contender::of(&case, false);
            assert_eq!(contenders[0], C::Ours);
            let peer = contenders.iter().any(|contender| contender.is_peer());
            assert_eq!(peer, case.field != Field::Seeing, "{case}");
        }
    }
}
