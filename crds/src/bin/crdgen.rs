//! Writes the generated files into the checkout. Run it after each change of a type.

use std::fs;
use std::path::Path;

use anyhow::Context;
use pyramid_crds::generated::{CHART, PLAIN, files};

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for folder in [PLAIN, CHART] {
        let folder = root.join(folder);
        // Files of kinds that are gone go too.
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("empty {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    }
    for file in files()? {
        let path = root.join(file.folder).join(file.name);
        fs::write(&path, file.text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
