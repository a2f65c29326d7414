//! The kernels as NVIDIA's compiler sees them.

use crate::native::cuda::{
    device::{Half, KERNELS, Shape},
    driver::{compile, open_nvrtc},
    emulated::skipped,
};
use std::path::PathBuf;

/// Compiles for every kind of card and many shapes of models; the compiler ends in machine code, so that
/// inline assembly is checked too.
#[test]
fn the_kernels_compile_for_every_kind_of_card() {
    let Some(folder) = std::env::var_os("PIECEWORK_TEST_NVRTC").map(PathBuf::from) else {
        let why = "PIECEWORK_TEST_NVRTC isn't set";
        return skipped("the_kernels_compile_for_every_kind_of_card", why);
    };
    open_nvrtc(&folder.join("libnvrtc.so.12")).unwrap();
    let shapes = [
        (128, 4, Half::Bf16),
        (64, 3, Half::F16),
        (36, 7, Half::Bf16),
        (256, 8, Half::F16),
        (128, 20, Half::F16),
    ];
    for card in ["sm_80", "sm_86", "sm_89", "sm_90"] {
        for (head_dim, group, half) in shapes {
            let shape = Shape { head_dim, group, half };
            let options = [shape.definitions(), vec![format!("--gpu-architecture={card}")]];
            let image = compile(&options.concat()).unwrap();
            for kernel in KERNELS {
                let name = kernel.as_bytes();
                let is_there = image.windows(name.len()).any(|bytes| bytes == name);
                assert!(is_there, "{kernel} for {card}, {shape:?}");
            }
        }
    }
}

#[test]
fn what_doesnt_compile_is_told_with_the_compilers_words() {
    let Some(folder) = std::env::var_os("PIECEWORK_TEST_NVRTC").map(PathBuf::from) else {
        let why = "PIECEWORK_TEST_NVRTC isn't set";
        return skipped("what_doesnt_compile_is_told_with_the_compilers_words", why);
    };
    open_nvrtc(&folder.join("libnvrtc.so.12")).unwrap();
    let error = compile(&["--gpu-architecture=sm_80".to_owned()]).unwrap_err().to_string();
    assert!(error.contains("HEAD_DIM") && error.contains("take an image"), "{error}");
}
