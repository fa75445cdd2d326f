//! Tables and a model of the picker.
