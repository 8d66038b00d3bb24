"""What lies in a folder, to see what a call has changed or left there."""


def read_folder(folder):
    """Map the name of each file below a folder, hidden ones too, to its content."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
