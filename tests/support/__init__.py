"""What tests share: stand-ins for storage and agents, programs that run in processes of their own, makers of files."""

from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent
