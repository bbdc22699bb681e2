# SPDX-License-Identifier: MIT
"""What `ninja install` puts where, and mount(8) and fstab with what was installed."""

import os
import subprocess

import pytest

from conftest import DATA, QUANTFS


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory):
    destination = tmp_path_factory.mktemp("installed")
    subprocess.run(["meson", "install", "-C", QUANTFS.parent, "--no-rebuild", "--destdir",
                    destination], check=True, capture_output=True)
    (found,) = destination.rglob("quantfs")
    return found.parent


def test_installed_program_runs(bin_folder):
    done = subprocess.run([bin_folder / "quantfs", "ls", DATA], text=True, capture_output=True,
                          check=True)
    assert "demo-llama" in done.stdout and "demo-qwen2" in done.stdout


# In a name space of its own, where the program is where mount(8) looks for it: $1 is its folder.
FSTAB = """
set -e
mount --bind "$1" /usr/local/bin
mount --fstab "$2" "$3"
ls "$3/demo-llama"
grep " $3 " /proc/self/mountinfo
umount "$3"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mount(8) is for root")
def test_mount_8_and_fstab(bin_folder, tmp_path):
    """A line of fstab is enough; words that it may have are understood."""
    point, table = tmp_path / "mnt", tmp_path / "fstab"
    point.mkdir()
    table.write_text(f"{DATA} {point} fuse.quantfs nofail,noatime,_netdev,x-systemd.automount,"
                     "cache=none 0 0\n")
    done = subprocess.run(["unshare", "--mount", "sh", "-c", FSTAB, "sh", bin_folder, table, point],
                          text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    *entries, line = done.stdout.splitlines()
    assert entries == ["gguf", "hf", "original", "tensors"]
    assert {"ro", "nosuid", "nodev"} <= set(line.split()[5].split(","))
