//! A Merkle tree as RFC 6962, section 2.1, has it, built from the left.

use sha2::{Digest as _, Sha256};

pub type Hash = [u8; 32];

/// The perfect subtrees that the leaves so far make, the largest first, each with its height.
#[derive(Debug, Default)]
pub struct Tree(Vec<(u32, Hash)>);

impl Tree {
    /// Adds a leaf, and answers the hashes that it completes: its own, then those of the subtrees that
    /// end with it.
    pub fn add(&mut self, leaf: &[u8]) -> Vec<Hash> {
        let mut completed = vec![hash(&[&[0], leaf])];
        self.0.push((0, completed[0]));
        while let [.., (left_height, left), (height, right)] = self.0[..]
            && left_height == height
        {
            let parent = hash(&[&[1], &left, &right]);
            completed.push(parent);
            self.0.truncate(self.0.len() - 2);
            self.0.push((height + 1, parent));
        }
        completed
    }

    /// The hash over all leaves.
    pub fn root(&self) -> Hash {
        let mut subtrees = self.0.iter().rev().map(|(_, hash)| *hash);
        let Some(last) = subtrees.next() else { return hash(&[]) };
        subtrees.fold(last, |right, left| hash(&[&[1], &left, &right]))
    }
}

fn hash(parts: &[&[u8]]) -> Hash {
    let mut sum = Sha256::new();
    parts.iter().for_each(|part| sum.update(part));
    sum.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The leaves and roots that implementations of RFC 6962 are held to.
    #[test]
    fn roots_are_those_of_the_published_vectors() {
        let leaves: [&[u8]; 8] =
            [b"", b"\x00", b"\x10", b" !", b"01", b"@ABC", b"PQRSTUVW", b"`abcdefghijklmno"];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut tree = Tree::default();
        for (leaf, root) in leaves.iter().zip(roots) {
            tree.add(leaf);
            let hex: String = tree.root().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, root);
        }
    }
}
