//! Repositories on disk.

use std::time::{Duration, SystemTime};

use super::*;
use crate::config::proto::ModelVersionPolicy;
use crate::config::proto::model_version_policy::{Latest, PolicyChoice};

/// A directory with these files, each with its name as content; a name that ends with a slash is
/// a directory.
fn directory(files: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for file in files {
        let path = root.path().join(file);
        if file.ends_with('/') {
            fs::create_dir_all(path).unwrap();
        } else {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
    }
    root
}

fn open(roots: &[&tempfile::TempDir]) -> Repository {
    Repository::open(roots.iter().map(|root| root.path()), Limits::default()).unwrap()
}

fn name(name: &str) -> ModelName {
    ModelName::new(name).unwrap()
}

fn names<'a>(models: impl IntoIterator<Item = &'a ModelName>) -> Vec<&'a str> {
    models.into_iter().map(ModelName::as_str).collect()
}

#[test]
fn models_of_all_repositories_are_found() {
    let first = directory(&[
        "b/1/model.onnx",
        "a/",
        "README.md",
        ".git/config",
        "both/1/m",
    ]);
    let second = directory(&["c d/1/model.onnx", "both/", "..data/x"]);
    let repository = open(&[&first, &second]);
    let scan = repository.scan().unwrap();
    assert_eq!(names(scan.models.keys()), ["a", "b", "c d"]);
    let skipped: Vec<_> = scan
        .skipped
        .iter()
        .map(|skipped| skipped.path.clone())
        .collect();
    assert_eq!(
        skipped,
        [first.path().join(".git"), second.path().join("..data")]
    );

    let duplicate = &scan.duplicates[&name("both")];
    assert_eq!(duplicate.kind(), ErrorKind::Duplicate);
    for root in [&first, &second] {
        let path = root.path().join("both").display().to_string();
        assert!(duplicate.to_string().contains(&path), "{duplicate}");
    }
    assert_eq!(
        repository.find(&name("both")).unwrap_err().kind(),
        ErrorKind::Duplicate
    );
    assert_eq!(
        repository.find(&name("c d")).unwrap().path(),
        second.path().join("c d")
    );
    let error = repository.find(&name("README.md")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(
        error.to_string(),
        "model 'README.md' is not found in any model repository"
    );
}

#[test]
fn three_of_a_name_are_one_duplicate() {
    let roots = [directory(&["m/"]), directory(&["m/"]), directory(&["m/"])];
    let scan = open(&roots.each_ref()).scan().unwrap();
    assert!(scan.models.is_empty());
    assert_eq!(scan.duplicates.len(), 1);
}

#[test]
fn repositories_that_cannot_be_opened_say_why() {
    let root = directory(&["file"]);
    let missing = root.path().join("missing");
    let open = |paths: &[&Path]| Repository::open(paths, Limits::default()).unwrap_err();
    let error = open(&[&missing]);
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.path(), Some(missing.as_path()));
    assert_eq!(
        error.to_string(),
        format!(
            "cannot open model repository '{}': No such file or directory (os error 2)",
            missing.display()
        )
    );
    assert_eq!(
        open(&[&root.path().join("file")]).kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        open(&[root.path(), &root.path().join(".")]).kind(),
        ErrorKind::Duplicate
    );
}

#[test]
fn version_directories_are_numbers() {
    let root = directory(&[
        "m/config.pbtxt",
        "m/10/model.onnx",
        "m/2/model.onnx",
        "m/0/other.onnx",
        "m/03/model.onnx",
        "m/x5/",
        "m/-4/",
        "m/3x/",
        "m/7",
    ]);
    let model = open(&[&root]).find(&name("m")).unwrap();
    let versions = model.versions().unwrap();
    assert_eq!(versions.available, [0, 2, 10]);
    let skipped: Vec<String> = versions.skipped.iter().map(ToString::to_string).collect();
    assert_eq!(skipped.len(), 4);
    assert!(
        skipped[1].ends_with("m/03' is skipped: its name has leading zeros"),
        "{skipped:?}"
    );
    assert_eq!(model.model_files().unwrap(), ["model.onnx", "other.onnx"]);
    let policy = ModelVersionPolicy {
        policy_choice: Some(PolicyChoice::Latest(Latest { num_versions: 2 })),
    };
    assert_eq!(select(&versions.available, Some(&policy)).versions, [2, 10]);
}

#[test]
fn files_of_a_model_are_found_and_stay_within() {
    let root = directory(&[
        "m/config.pbtxt",
        "m/labels.txt",
        "m/1/model.onnx",
        "m/2/model.onnx/model.onnx",
        "m/3/x",
        "n/1/secret",
    ]);
    let repository = open(&[&root]);
    let model = repository.find(&name("m")).unwrap();
    let config = model.config().unwrap().unwrap();
    assert_eq!(config.text, "m/config.pbtxt");
    assert_eq!(config.path, root.path().join("m/config.pbtxt"));
    assert_eq!(repository.find(&name("n")).unwrap().config().unwrap(), None);
    assert_eq!(model.labels("labels.txt").unwrap(), ["m/labels.txt"]);
    assert_eq!(
        model.model_file(1, "model.onnx").unwrap(),
        ModelFile::Path(root.path().join("m/1/model.onnx"))
    );
    assert_eq!(
        model.model_file(2, "model.onnx").unwrap(),
        ModelFile::Path(root.path().join("m/2/model.onnx/model.onnx"))
    );
    for (version, filename, kind) in [
        (3, "model.onnx", ErrorKind::NotFound),
        (4, "model.onnx", ErrorKind::NotFound),
        (1, "../../n/1/secret", ErrorKind::InvalidName),
        (1, "/etc/passwd", ErrorKind::InvalidName),
        (1, "", ErrorKind::InvalidName),
    ] {
        let error = model.model_file(version, filename).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    for (filename, kind) in [
        ("none.txt", ErrorKind::NotFound),
        ("../n/1/secret", ErrorKind::InvalidName),
        ("1", ErrorKind::Unreadable),
    ] {
        let error = model.labels(filename).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[test]
fn limits_hold() {
    let root = directory(&["a/1/m", "a/2/m", "b/1/m"]);
    fs::write(root.path().join("a/config.pbtxt"), [b' '; 100]).unwrap();
    fs::write(root.path().join("b/config.pbtxt"), b"name: \"\xff\"").unwrap();
    let limits = Limits {
        models_max: 1,
        versions_max: 1,
        entries_max: 2,
        config_bytes_max: 99,
        ..Limits::default()
    };
    let repository = Repository::open([root.path()], limits).unwrap();
    assert_eq!(
        repository.scan().unwrap_err().kind(),
        ErrorKind::LimitExceeded
    );
    let a = repository.find(&name("a")).unwrap();
    assert_eq!(a.config().unwrap_err().kind(), ErrorKind::LimitExceeded);
    assert_eq!(a.versions().unwrap_err().kind(), ErrorKind::LimitExceeded);
    assert_eq!(
        a.fingerprint().unwrap_err().kind(),
        ErrorKind::LimitExceeded
    );
    let b = repository.find(&name("b")).unwrap();
    let error = b.config().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreadable);
    assert!(
        error
            .to_string()
            .ends_with("is not UTF-8 text: byte 7 is wrong"),
        "{error}"
    );
}

#[test]
fn files_of_a_load_request_are_a_directory_of_their_own() {
    let limits = Limits::default();
    let files = [
        ("file:1/model.onnx", "one"),
        ("file:5/model.onnx/model.onnx", "five"),
        ("file:labels.txt", "cat\ndog\n"),
        ("file:config.pbtxt", "name: \"m\""),
        ("file:x/y", ""),
    ]
    .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
    let overrides = Overrides::new(files, &limits).unwrap();
    let model = ModelDirectory::in_memory(name("m"), overrides, &limits);
    assert!(model.is_in_memory());
    let versions = model.versions().unwrap();
    assert_eq!(versions.available, [1, 5]);
    assert_eq!(versions.skipped[0].path, Path::new("m/x"));
    assert_eq!(model.model_files().unwrap(), ["model.onnx"]);
    let bytes = |text: &str| ModelFile::Bytes(text.as_bytes().into());
    assert_eq!(model.model_file(1, "model.onnx").unwrap(), bytes("one"));
    assert_eq!(model.model_file(5, "model.onnx").unwrap(), bytes("five"));
    assert_eq!(
        model.model_file(2, "model.onnx").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(model.labels("labels.txt").unwrap(), ["cat", "dog"]);
    assert_eq!(model.config().unwrap().unwrap().text, "name: \"m\"");
    assert_eq!(model.fingerprint().unwrap(), Fingerprint::default());
}

#[test]
fn changes_are_seen() {
    let root = directory(&["a/1/m", "b/1/m", "c/config.pbtxt", "d/1/m"]);
    let repository = open(&[&root]);
    let look = || {
        let scan = repository.scan().unwrap();
        let (snapshot, problems) = Snapshot::take(scan.models.values());
        assert!(problems.is_empty());
        snapshot
    };
    let before = look();
    assert!(before.diff(&look()).is_empty());

    let path = |path: &str| root.path().join(path);
    // The same size, another time.
    let file = fs::File::options().write(true).open(path("a/1/m")).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(5))
        .unwrap();
    // The same time, another size.
    let modified = fs::metadata(path("c/config.pbtxt"))
        .unwrap()
        .modified()
        .unwrap();
    fs::write(path("c/config.pbtxt"), "").unwrap();
    let file = fs::File::options()
        .write(true)
        .open(path("c/config.pbtxt"))
        .unwrap();
    file.set_modified(modified).unwrap();
    fs::remove_dir_all(path("d")).unwrap();
    fs::create_dir_all(path("e/1")).unwrap();

    let after = look();
    let diff = before.diff(&after);
    assert_eq!(names(&diff.added), ["e"]);
    assert_eq!(names(&diff.modified), ["a", "c"]);
    assert_eq!(names(&diff.removed), ["d"]);

    // A model that cannot be looked at differs once.
    let scan = repository.scan().unwrap();
    fs::remove_dir_all(path("b")).unwrap();
    let (gone, problems) = Snapshot::take(scan.models.values());
    assert_eq!(problems[0].kind(), ErrorKind::NotFound);
    assert_eq!(names(&after.diff(&gone).modified), ["b"]);
    assert!(
        gone.diff(&Snapshot::take(scan.models.values()).0)
            .is_empty()
    );
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_cycles_end() {
    let root = directory(&["a/1/model.onnx"]);
    let link = |from: &str, to: &str| {
        std::os::unix::fs::symlink(root.path().join(from), root.path().join(to)).unwrap();
    };
    link("a", "b");
    link("a/1", "a/2");
    link("a", "a/3");
    let model = open(&[&root]).find(&name("b")).unwrap();
    assert_eq!(model.versions().unwrap().available, [1, 2, 3]);
    assert!(model.model_file(2, "model.onnx").is_ok());
    assert_ne!(model.fingerprint().unwrap(), Fingerprint::default());
}
