//! Turns the bytes of an input into choices.

/// The rest of an input. When it is used up, every choice is the first one.
#[derive(Debug)]
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub fn new(input: &'a [u8]) -> Self {
        Choices(input)
    }

    pub fn is_used_up(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    /// A number below `bound`, which is at most 256.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    /// One of the values.
    pub fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }

    /// At most `len` bytes of the input as they are.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Levels, joined by the separator: one to six of those listed. A choice behind them takes text from the input.
    pub fn levels(&mut self, levels: &[&str], separator: &str) -> String {
        let count = 1 + self.below(6);
        let chosen: Vec<String> = (0..count)
            .map(|_| match self.below(levels.len() + 1) {
                at if at < levels.len() => levels[at].to_owned(),
                _ => {
                    let len = self.below(70);
                    String::from_utf8_lossy(self.bytes(len)).replace('\0', "0")
                }
            })
            .collect();
        chosen.join(separator)
    }
}
