use super::*;
use std::fs;

/// A directory that looks like a control group.
pub(crate) struct FakeGroup {
    root: PathBuf,
    version: Version,
}

impl FakeGroup {
    pub(crate) fn new(name: &str, version: Version) -> Self {
        let root =
            std::env::temp_dir().join(format!("weldpool-group-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).unwrap();
        let group = Self { root, version };
        match version {
            Version::Two => {
                group.write("memory.current", "178257920\n");
                group.write("memory.max", "268435456\n");
                group.write("memory.high", "max\n");
                group.write("memory.stat", V2_STAT);
                group.write("memory.events", "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n");
            }
            Version::One => {
                group.write("memory.usage_in_bytes", "178257920\n");
                group.write("memory.limit_in_bytes", "268435456\n");
                group.write("memory.stat", V1_STAT);
                group.write("memory.failcnt", "0\n");
                group.write("memory.oom_control", OOM_CONTROL);
            }
        }
        group
    }

    /// Sets a file's content at once, as the kernel does: a reader never finds half of it. The
    /// counters of events keep their file, because a source holds it open.
    pub(crate) fn write(&self, file: &str, text: &str) {
        let path = self.root.join(file);
        if file == "memory.events" {
            fs::write(path, text).unwrap();
        } else {
            let draft = self.root.join(format!("{file}.draft"));
            fs::write(&draft, text).unwrap();
            fs::rename(draft, path).unwrap();
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.root
    }

    pub(crate) fn group(&self) -> MemoryGroup {
        MemoryGroup {
            version: self.version,
            directory: self.root.clone(),
        }
    }
}

impl Drop for FakeGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

const EVENTS: &str = include_str!("../../../../tests/data/kernel/memory.events");
const V1_STAT: &str = include_str!("../../../../tests/data/kernel/memory.stat-v1");
const V2_STAT: &str = include_str!("../../../../tests/data/kernel/memory.stat-v2");
const OOM_CONTROL: &str = include_str!("../../../../tests/data/kernel/memory.oom_control");

#[test]
fn the_controller_is_found_in_each_layout() {
    let cases = [
        (
            include_str!("../../../../tests/data/kernel/cgroup-v2.txt"),
            include_str!("../../../../tests/data/kernel/mountinfo-v2.txt"),
            (
                Version::Two,
                "/sys/fs/cgroup",
                "/sys/fs/cgroup/user.slice/app.scope",
            ),
        ),
        (
            include_str!("../../../../tests/data/kernel/cgroup-v1.txt"),
            include_str!("../../../../tests/data/kernel/mountinfo-v1.txt"),
            (
                Version::One,
                "/sys/fs/cgroup/memory group",
                "/sys/fs/cgroup/memory group",
            ),
        ),
        (
            include_str!("../../../../tests/data/kernel/cgroup-hybrid.txt"),
            include_str!("../../../../tests/data/kernel/mountinfo-hybrid.txt"),
            (
                Version::One,
                "/sys/fs/cgroup/memory",
                "/sys/fs/cgroup/memory/jobs/one",
            ),
        ),
    ];
    for (groups, mounts, (version, mount, directory)) in cases {
        let place = locate(groups, mounts).unwrap();
        assert_eq!(place.version, version);
        assert_eq!(place.mount, Path::new(mount));
        assert_eq!(place.directory, Path::new(directory));
    }
}

#[test]
fn a_group_outside_of_the_mount_is_the_mounts_root() {
    let mounts = include_str!("../../../../tests/data/kernel/mountinfo-v2.txt");
    let place = locate("0::/../../elsewhere\n", mounts).unwrap();
    assert_eq!(place.directory, Path::new("/sys/fs/cgroup"));
}

#[test]
fn without_a_controller_there_is_no_group() {
    let mounts = include_str!("../../../../tests/data/kernel/mountinfo-v2.txt");
    for (groups, mounts) in [
        ("", mounts),
        ("nonsense", mounts),
        ("3:cpu:/", mounts),
        ("0::/", ""),
        ("0::/", "1 2 3 - cgroup2"),
        ("4:memory:/", mounts),
    ] {
        assert_eq!(locate(groups, mounts), None, "{groups:?} {mounts:?}");
    }
}

#[test]
fn ancestors_follow_the_group_itself() {
    let fake = FakeGroup::new("ancestors", Version::Two);
    let inner = fake.path().join("a/b");
    fs::create_dir_all(&inner).unwrap();
    fs::write(inner.join("memory.current"), "1\n").unwrap();
    let place = Place {
        version: Version::Two,
        mount: fake.path().to_owned(),
        directory: inner.clone(),
    };
    let groups = place.groups();
    let directories: Vec<_> = groups.iter().map(MemoryGroup::directory).collect();
    assert_eq!(directories, [inner.as_path(), fake.path()]);
}

#[test]
fn version_2_is_read() {
    let fake = FakeGroup::new("v2", Version::Two);
    let group = fake.group();
    assert_eq!(group.limit().unwrap(), Some(256 << 20));
    assert_eq!(group.effective_limit().unwrap(), Some(256 << 20));
    fake.write("memory.high", "201326592\n");
    assert_eq!(group.limit().unwrap(), Some(256 << 20));
    assert_eq!(group.effective_limit().unwrap(), Some(192 << 20));
    assert_eq!(group.used().unwrap(), 150 << 20);
    fake.write("memory.events", EVENTS);
    let expected = Events {
        high: 12,
        max: 34,
        oom: 5,
        oom_kill: 1,
    };
    let file = group.open_events().unwrap();
    for _ in 0..2 {
        assert_eq!(group.events(file.as_ref()).unwrap(), expected);
    }
}

#[test]
fn version_1_is_read() {
    let fake = FakeGroup::new("v1", Version::One);
    let group = fake.group();
    assert_eq!(group.effective_limit().unwrap(), Some(256 << 20));
    assert_eq!(group.used().unwrap(), 150 << 20);
    fake.write("memory.failcnt", "77\n");
    let expected = Events {
        high: 0,
        max: 77,
        oom: 2,
        oom_kill: 2,
    };
    assert_eq!(group.events(None).unwrap(), expected);
    // What ran into the limit on memory and swap together counts too.
    fake.write("memory.memsw.failcnt", "5\n");
    assert_eq!(group.events(None).unwrap().max, 82);
    assert!(group.open_events().unwrap().is_none());
    fake.write("memory.limit_in_bytes", "9223372036854771712\n");
    assert_eq!(group.limit().unwrap(), None);
}

#[test]
fn malformed_files_are_errors_that_name_them() {
    let fake = FakeGroup::new("malformed", Version::Two);
    let group = fake.group();
    for (file, text) in [
        ("memory.max", "many"),
        ("memory.current", "-1"),
        ("memory.stat", "inactive_file"),
        ("memory.events", "high 1\nmax x\noom 0\n"),
    ] {
        fake.write(file, text);
        let error = match file {
            "memory.max" => group.limit().unwrap_err(),
            "memory.events" => group.events(None).unwrap_err(),
            _ => group.used().unwrap_err(),
        };
        assert_eq!(error.kind(), ErrorKind::System);
        assert!(error.to_string().contains(file), "{error}");
        if file == "memory.current" {
            fake.write(file, "178257920\n");
        }
    }
}

#[test]
fn a_file_without_end_is_refused() {
    let error = read("/dev/zero".as_ref()).unwrap_err();
    assert!(error.to_string().contains("longer than"), "{error}");
}

#[test]
fn escapes_of_mount_points() {
    for (text, plain) in [
        ("/plain", "/plain"),
        ("/a\\040b", "/a b"),
        ("\\134\\134040", "\\\\040"),
        ("end\\", "end\\"),
        ("\\é", "\\é"),
    ] {
        assert_eq!(unescape(text), plain);
    }
}
