"""Files that are whole or absent, and that no link redirects elsewhere. Nothing here depends on their content.

    errors.py       the system's errors as StorageError, paths as users write them, and the default place of the cache
    writing.py      creating, copying and removing files and directories, never through a link
    temporaries.py  temporary names that identify the process that owns them, and the removal of abandoned ones
    reading.py      opening and reading files that others may have written: regular ones only, up to a size
    atomic.py       files and directories that appear under their name only when they are whole

All writing to a run, a cache or an export goes through these functions; tests/test_architecture.py finds the calls that
bypass them.
"""

from gptcli.storage.atomic import (
    append_file,
    atomic_directory,
    atomic_file,
    errors_name,
    fsync_path,
    publish,
    remove_directory,
    set_modes,
    sha256_file,
    write_atomic,
)
from gptcli.storage.errors import NO_ROOM, default_cache_dir, expanded, storage_error, storage_errors
from gptcli.storage.reading import (
    HUGE,
    LARGE,
    SMALL,
    UnsuitableFileError,
    open_regular,
    read_at_most,
    read_named,
    read_regular,
    regular_descriptor,
)
from gptcli.storage.temporaries import (
    TEMPORARY_MARK,
    clean_temporaries,
    held_directory,
    leftovers,
    process_is_alive,
    temporary_name,
)
from gptcli.storage.writing import (
    allocate,
    append_content,
    copy_file,
    copy_tree,
    create_file,
    create_text_file,
    make_directory,
    open_nofollow,
    refuse_special_file,
    remove_tree,
    write_file,
)
