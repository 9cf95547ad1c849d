extern crate std;

use alloc::{format, string::String, vec::Vec};
use std::fs;

use super::*;

fn digest(text: &str) -> Digest {
    Digest::from_slice(&hex::decode(text).unwrap()).unwrap()
}

/// Walks the vectors: what is expected is built, and what is built or given is verified or refused as the file says.
#[test]
fn every_vector_agrees() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/merkle");
    let mut seen = 0;
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let vector: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
        let input = &vector["input"];
        let strings = |value: &toml::Value| -> Vec<String> {
            value.as_array().unwrap().iter().map(|item| item.as_str().unwrap().into()).collect()
        };
        let digests =
            |value: &toml::Value| -> Vec<Digest> { strings(value).iter().map(|text| digest(text)).collect() };
        let leaves: Vec<Digest> =
            strings(&input["leaves"]).iter().map(|text| leaf_hash(&hex::decode(text).unwrap())).collect();
        let head = Head { size: leaves.len() as u64, root: root(&leaves) };
        let proof = input.get("proof").map(digests);
        let number = |name| input[name].as_integer().unwrap() as usize;
        match (vector["kind"].as_str().unwrap(), proof) {
            ("roots", None) => {
                let expected = digests(&vector["expect"]["roots"]);
                let roots: Vec<Digest> = (0..=leaves.len()).map(|size| root(&leaves[..size])).collect();
                assert_eq!(roots, expected);
            }
            ("inclusion", None) => {
                let proof = inclusion_proof(&leaves, number("index")).unwrap();
                assert_eq!(proof, digests(&vector["expect"]["proof"]));
            }
            ("consistency", None) => {
                let proof = consistency_proof(&leaves, number("size")).unwrap();
                assert_eq!(proof, digests(&vector["expect"]["proof"]));
            }
            ("inclusion", Some(proof)) => {
                assert_eq!(vector["error"].as_str(), Some("not included"));
                let index = number("index");
                assert!(!is_included(&leaves[index], index as u64, &head, &proof));
            }
            ("consistency", Some(proof)) => {
                assert_eq!(vector["error"].as_str(), Some("not consistent"));
                let size = number("size");
                let old = Head { size: size as u64, root: root(&leaves[..size]) };
                assert!(!is_consistent(&old, &head, &proof));
            }
            other => panic!("{}: {other:?}", path.display()),
        }
        seen += 1;
    }
    assert_eq!(seen, 5);
}

fn leaves(count: u32) -> Vec<Digest> {
    (0..count).map(|number| leaf_hash(format!("leaf {number}").as_bytes())).collect()
}

#[test]
fn every_leaf_of_every_size_is_proven_at_its_place_and_at_no_other() {
    for size in 1..=33_u32 {
        let leaves = leaves(size);
        let head = Head { size: size.into(), root: root(&leaves) };
        for (index, leaf) in leaves.iter().enumerate() {
            let mut proof = inclusion_proof(&leaves, index).unwrap();
            for place in 0..u64::from(size) + 2 {
                assert_eq!(
                    is_included(leaf, place, &head, &proof),
                    place == index as u64,
                    "{index} of {size}"
                );
            }
            assert!(!is_included(&leaf_hash(b"other"), index as u64, &head, &proof));
            proof.push(*leaf);
            assert!(!is_included(leaf, index as u64, &head, &proof), "too long");
            proof.pop();
            if proof.pop().is_some() {
                assert!(!is_included(leaf, index as u64, &head, &proof), "too short");
            }
        }
        assert_eq!(inclusion_proof(&leaves, size as usize), None);
    }
}

#[test]
fn every_list_continues_its_beginnings_and_nothing_else() {
    let leaves = leaves(33);
    for new_size in 0..=leaves.len() {
        let new = Head { size: new_size as u64, root: root(&leaves[..new_size]) };
        for old_size in 0..=new_size {
            let old = Head { size: old_size as u64, root: root(&leaves[..old_size]) };
            let proof = consistency_proof(&leaves[..new_size], old_size).unwrap();
            assert!(is_consistent(&old, &new, &proof), "{old_size} to {new_size}");
            let forked = Head { root: leaf_hash(b"other"), ..old };
            assert!(!is_consistent(&forked, &new, &proof), "{old_size} to {new_size}");
            let other = Head { root: leaf_hash(b"other"), ..new };
            assert!(old_size == 0 || !is_consistent(&old, &other, &proof), "{old_size} to {new_size}");
            for index in 0..proof.len() {
                let mut changed = proof.clone();
                changed[index].0[0] ^= 1;
                assert!(!is_consistent(&old, &new, &changed), "{old_size} to {new_size}, {index} changed");
                let mut cut = proof.clone();
                cut.remove(index);
                assert!(!is_consistent(&old, &new, &cut), "{old_size} to {new_size}, {index} left out");
            }
            let mut longer = proof;
            longer.push(leaf_hash(b"more"));
            assert!(!is_consistent(&old, &new, &longer), "{old_size} to {new_size}, too long");
            assert!(old_size == new_size || !is_consistent(&new, &old, &longer), "backwards");
        }
        assert_eq!(consistency_proof(&leaves[..new_size], new_size + 1), None);
    }
}
