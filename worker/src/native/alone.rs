//! A product by itself, for benches: what the engine's multiplication does when nothing else is done.

use super::{
    matrix::{Kept, Matrix},
    model_files::ModelFiles,
    panels::Panels,
    tensor::find,
    tiles::Tiles,
};
use crate::engine::EngineError;
use std::path::Path;

/// Rows of activations, and weights of a model as the engine keeps them.
#[derive(Debug)]
pub struct Product {
    matrix: Matrix,
    rows: Vec<f32>,
    depth: usize,
    columns: usize,
    tiles: Tiles,
    out: Panels,
}

impl Product {
    /// So many rows, and the first layer's widest weights: a folder in Hugging Face's layout
    /// or a GGUF file has them.
    pub fn open(model: &Path, rows: usize) -> Result<Self, EngineError> {
        let files = ModelFiles::open(model)?;
        let weights = find(&files.tensors, "model.layers.0.mlp.up_proj.weight")?;
        let (columns, depth) = (weights.height(), weights.width());
        let matrix = Matrix::load(Kept::Stored, columns, &[weights], |column| Some((0, column)))?;
        let rows = (0..rows * depth).map(|at| (at as f32).sin()).collect();
        let (tiles, out) = (Tiles::default(), Panels::default());
        Ok(Self { matrix, rows, depth, columns, tiles, out })
    }

    /// What it is: the weights' format, then rows, depth and columns.
    pub fn describe(&self) -> String {
        let Self { matrix, rows, depth, columns, .. } = self;
        format!("{} {} × {depth} × {columns}", matrix.kind(), rows.len() / depth)
    }

    /// Multiplications and additions.
    pub fn operations(&self) -> f64 {
        2.0 * (self.rows.len() * self.columns) as f64
    }

    /// Takes the rows in and multiplies them.
    pub fn multiply(&mut self) {
        let Self { matrix, rows, depth, tiles, out, .. } = self;
        tiles.fill(rows, *depth, matrix.intake(), |_, values, out| out.copy_from_slice(values));
        matrix.multiply(tiles, out);
    }
}
