//! placeholder
/// Proof.
#[derive(Clone, Debug)]
pub struct Verified<T>(T);
impl<T> Verified<T> {
    pub fn get(&self) -> &T {
        &self.0
    }
    pub fn for_tests(t: T) -> Self {
        Self(t)
    }
}
