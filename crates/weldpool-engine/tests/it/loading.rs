//! What a loaded model says, and finding the library.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

use weldpool_engine::onnxruntime::OnnxRuntime;
use weldpool_engine::{Arena, DataType, Dim, Engine, LoadOptions, ModelSource};

use crate::support::{allocator, engine, library, load, model, ocr_model};

#[test]
fn the_signature_keeps_names_and_symbols() {
    let allocator = allocator();
    let cnn = load(&model("simple_cnn"), &allocator, Arena::Engine);
    assert_eq!(cnn.engine(), "onnxruntime");
    let [input] = cnn.inputs() else {
        panic!("{:?}", cnn.inputs())
    };
    assert_eq!(input.name, "x");
    assert_eq!(input.data_type, DataType::Fp32);
    assert_eq!(
        input.dims,
        [
            Dim::Symbolic(Some("batch".into())),
            Dim::Known(3),
            Dim::Known(32),
            Dim::Known(32)
        ]
    );
    let [output] = cnn.outputs() else {
        panic!("{:?}", cnn.outputs())
    };
    assert_eq!(output.to_string(), "probabilities FP32 [batch,10]");

    let positions = load(&model("non_zero"), &allocator, Arena::Engine);
    assert_eq!(
        positions.outputs()[0].dims,
        [Dim::Known(1), Dim::Symbolic(None)]
    );
    for data_type in DataType::ALL {
        let name = format!("identity_{}", data_type.name().to_ascii_lowercase());
        let identity = load(&model(&name), &allocator, Arena::Engine);
        assert_eq!(identity.inputs()[0].data_type, data_type);
        assert_eq!(identity.outputs()[0].data_type, data_type);
    }
}

#[test]
fn the_metadata_is_read() {
    let allocator = allocator();
    let path = model("dynamic_batch");
    let bytes = fs::read(&path).unwrap();
    for source in [ModelSource::Path(&path), ModelSource::Bytes(&bytes)] {
        let model = engine()
            .load(source, &LoadOptions::new(allocator.clone()))
            .unwrap();
        let metadata = model.metadata();
        assert_eq!(metadata.producer, "weldpool-examples");
        assert_eq!(metadata.graph, "dynamic_batch");
        assert_eq!(metadata.opset, Some(17));
        assert_eq!(
            metadata.custom.get("purpose").map(String::as_str),
            Some("test")
        );
    }
    let rec = load(&ocr_model("rec"), &allocator, Arena::Engine);
    let characters = &rec.metadata().custom["character"];
    assert!(characters.lines().count() > 6000, "{}", characters.len());
}

#[test]
fn the_library_is_found_by_path_folder_and_variable() {
    let file = library();
    let by_file = OnnxRuntime::load(Some(&file)).unwrap();
    let by_folder = OnnxRuntime::load(file.parent()).unwrap();
    let by_variable = OnnxRuntime::load(None).unwrap();
    for engine in [&by_file, &by_folder, &by_variable] {
        assert_eq!(engine.name(), "onnxruntime");
        assert_eq!(engine.version(), by_file.version());
        assert!(engine.version().starts_with("1."), "{}", engine.version());
    }
}

/// Set for the copies of this program that [`the_search_goes_on_without_the_variable`] starts.
const SEARCH: &str = "WELDPOOL_TEST_SEARCH";

/// Runs in a process of its own: it depends on the whole environment.
#[test]
fn the_search_goes_on_without_the_variable() {
    if let Some(expected) = env::var_os(SEARCH) {
        let found = OnnxRuntime::load(None);
        if expected == "none" {
            let error = found.unwrap_err();
            assert_eq!(error.kind(), weldpool_engine::ErrorKind::LibraryMissing);
            let text = error.to_string();
            assert!(text.contains("pip install onnxruntime"), "{text}");
            assert!(
                text.contains("ORT_DYLIB_PATH") && !text.contains('\n'),
                "{text}"
            );
        } else {
            let path = found.unwrap().path().to_path_buf();
            assert!(path.starts_with(&expected), "{}", path.display());
        }
        return;
    }
    let file = library();
    // Copies of this program, outside the build folder and the cache in it.
    let root = env::temp_dir().join(format!("weldpool-search-{}", std::process::id()));
    let _absent = fs::remove_dir_all(&root);
    let copy = |path: &str| {
        let executable = root.join(path);
        fs::create_dir_all(executable.parent().unwrap()).unwrap();
        fs::copy(env::current_exe().unwrap(), &executable).unwrap();
        executable
    };
    let link = |path: &Path| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(&file, path).unwrap();
    };
    let again = |executable: &Path, expected: &std::ffi::OsStr| {
        let mut command = Command::new(executable);
        command
            .args([
                "--exact",
                "loading::the_search_goes_on_without_the_variable",
            ])
            .env_remove("ORT_DYLIB_PATH")
            .env_remove("VIRTUAL_ENV")
            .env("PATH", "/nonexistent")
            .env(SEARCH, expected);
        command
    };
    let check = |mut command: Command, what: &str| {
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{what}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    };

    let alone = copy("alone/program");
    check(again(&alone, "none".as_ref()), "nowhere");

    let package = root.join("venv/lib/python3.11/site-packages/onnxruntime");
    link(&package.join("capi").join(file.file_name().unwrap()));
    let mut command = again(&alone, root.join("venv").as_os_str());
    command.env("VIRTUAL_ENV", root.join("venv"));
    check(command, "virtual environment");

    // An interpreter on the path is asked; this one answers with the package's folder.
    let programs = root.join("bin");
    fs::create_dir_all(&programs).unwrap();
    let python = programs.join("python3");
    fs::write(
        &python,
        format!("#!/bin/sh\necho '{}'\n", package.display()),
    )
    .unwrap();
    let mut permissions = fs::metadata(&python).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    fs::set_permissions(&python, permissions).unwrap();
    let mut command = again(&alone, package.as_os_str());
    command.env("PATH", &programs);
    check(command, "Python on the path");

    // The cache is looked for in the folders above the executable, newest version first.
    let built = copy("target/debug/deps/program");
    let cache = root.join("target/weldpool/onnxruntime");
    fs::create_dir_all(cache.join("1.9.0")).unwrap();
    fs::write(cache.join("1.9.0/libonnxruntime.so"), "not a library").unwrap();
    link(&cache.join("1.31.1").join(file.file_name().unwrap()));
    check(again(&built, cache.join("1.31.1").as_os_str()), "cache");

    // Beside the executable comes before the cache.
    let beside = built.with_file_name("libonnxruntime.so");
    link(&beside);
    check(again(&built, beside.as_os_str()), "beside the executable");
    fs::remove_dir_all(&root).unwrap();
}
