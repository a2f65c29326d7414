//! How products of each size are computed: what cuBLASLt is asked, once a size.

use crate::native::cuda::device::Half;
use cudarc::cublaslt::{result as lt, sys as lt_sys};
use std::{collections::HashMap, ptr};

/// Memory that products may take for sums: what NVIDIA recommends for Hopper.
pub(super) const WORKSPACE: usize = 32 << 20;

/// cuBLASLt, and what it was asked before.
pub(super) struct Products {
    /// Its own.
    pub(super) handle: lt_sys::cublasLtHandle_t,
    /// What it answered, by sizes.
    pub(super) known: HashMap<Sizes, Known>,
}

/// Rows, columns, depth, and whether the output is wide.
pub(super) type Sizes = (usize, usize, usize, bool);

/// How products of some sizes are computed.
pub(super) struct Known {
    /// What is multiplied, and with what sums.
    pub(super) product: lt_sys::cublasLtMatmulDesc_t,
    /// How the weights lie.
    pub(super) weights: lt_sys::cublasLtMatrixLayout_t,
    /// How the input lies.
    pub(super) input: lt_sys::cublasLtMatrixLayout_t,
    /// How the output lies.
    pub(super) output: lt_sys::cublasLtMatrixLayout_t,
    /// The kernel.
    pub(super) algorithm: lt_sys::cublasLtMatmulAlgo_t,
}

// SAFETY: cuBLASLt's handles may be used by any thread, and by several at once; descriptors are only read
// once they are made.
unsafe impl Send for Products {}
// SAFETY: as above.
unsafe impl Sync for Products {}

impl Known {
    /// In cuBLASLt's order of columns, our rows are columns: what is computed is the output's transpose, of
    /// the weights, which lie as their transpose does, and of the input.
    pub(super) fn new(
        handle: lt_sys::cublasLtHandle_t,
        half: Half,
        (rows, columns, depth, is_wide): Sizes,
    ) -> Result<Self, lt::CublasError> {
        let half = match half {
            Half::Bf16 => lt_sys::cudaDataType_t::CUDA_R_16BF,
            Half::F16 => lt_sys::cudaDataType_t::CUDA_R_16F,
        };
        let wide = lt_sys::cudaDataType_t::CUDA_R_32F;
        let layout = |kind, height: usize, width: usize| {
            lt::create_matrix_layout(kind, height as u64, width as u64, height.cast_signed() as i64)
        };
        let product =
            lt::create_matmul_desc(lt_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, wide)?;
        let transposed = 1_i32;
        // SAFETY: the attribute is an integer of 32 bits, and is copied.
        unsafe {
            lt::set_matmul_desc_attribute(
                product,
                lt_sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                ptr::from_ref(&transposed).cast(),
                size_of_val(&transposed),
            )?;
        }
        let (weights, input) = (layout(half, depth, columns)?, layout(half, depth, rows)?);
        let output = layout(if is_wide { wide } else { half }, columns, rows)?;
        let preference = lt::create_matmul_pref()?;
        // A depth that is split up has its parts added in 32 bits, not in the output's 16.
        let reduction = lt_sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
        let reduction = reduction as u32;
        // SAFETY: one attribute is a size, the other an integer of 32 bits, and both are copied; all descriptors
        // were just made.
        let found = unsafe {
            lt::set_matmul_pref_attribute(
                preference,
                lt_sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                ptr::from_ref(&WORKSPACE).cast(),
                size_of_val(&WORKSPACE),
            )?;
            lt::set_matmul_pref_attribute(
                preference,
                lt_sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                ptr::from_ref(&reduction).cast(),
                size_of_val(&reduction),
            )?;
            let found = lt::get_matmul_algo_heuristic(
                handle, product, weights, input, output, output, preference,
            );
            lt::destroy_matmul_pref(preference)?;
            found?
        };
        Ok(Self { product, weights, input, output, algorithm: found.algo })
    }
}
