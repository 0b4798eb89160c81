# cython: language_level=3
# Folders: the cells whose keys are the same up to their last "/", so that the keys under a prefix are found without a
# look at the others. See the head of _core.pyx.
#
# Folders form a tree in each shard, as those of a file system do. A folder exists while it has cells or other folders.
#
# The shard is locked.

cdef enum:
    FIRST_FOLDERS = 8
    FIRST_IN_FOLDER = 4


cdef inline Folder *find_folder(const Shard *shard, PyObject *key, Py_ssize_t length, uint64_t hashed) noexcept:
    """The folder of the key's first characters; NULL if there is none."""
    cdef Folder *folder
    if shard.folders == NULL:
        return NULL
    folder = shard.folders[hashed & shard.folder_mask]
    while folder != NULL and not (folder.hash == hashed and is_prefix(folder.text, folder.length, key, length)):
        folder = folder.next
    return folder


cdef inline Py_ssize_t folder_length(PyObject *key) noexcept:
    """Number of the key's characters up to its last "/"."""
    cdef Py_ssize_t length = length_of(key)
    while length and character_at(key, length - 1) != c"/":
        length -= 1
    return length


cdef Folder *folder_of(const Shard *shard, PyObject *key) noexcept:
    """The key's folder; NULL if there is none."""
    cdef uint64_t hashed = 0
    cdef Py_ssize_t i, length = folder_length(key)
    for i in range(length):
        hashed = hash_on(hashed, character_at(key, i))
    return find_folder(shard, key, length, hashed) if length else NULL


cdef Folder *find_or_make_folder(Shard *shard, PyObject *key, Py_ssize_t length) noexcept:
    """The folder of the key's first characters, made with those around it if need be; NULL if there is no memory."""
    cdef Folder *parent = NULL
    cdef Folder *folder = NULL
    cdef uint64_t hashed = 0
    cdef Py_ssize_t i
    for i in range(length):
        hashed = hash_on(hashed, character_at(key, i))
        if character_at(key, i) == c"/":
            folder = find_folder(shard, key, i + 1, hashed)
            if folder == NULL:
                folder = make_folder(shard, key, i + 1, hashed, parent)
            if folder == NULL:
                drop_empty_folders(shard, parent)
                return NULL
            parent = folder
    return folder


cdef Folder *make_folder(Shard *shard, PyObject *key, Py_ssize_t length, uint64_t hashed, Folder *parent) noexcept:
    cdef Folder *folder
    cdef Py_ssize_t i
    if not make_room_for_folders(shard):
        return NULL
    folder = <Folder *>PyMem_RawCalloc(1, sizeof(Folder) + length * sizeof(Py_UCS4))
    if folder == NULL:
        return NULL
    folder.hash, folder.length, folder.parent = hashed, length, parent
    for i in range(length):
        folder.text[i] = character_at(key, i)
    if parent != NULL:
        folder.next_sibling = parent.children
        if folder.next_sibling != NULL:
            folder.next_sibling.previous_sibling = folder
        parent.children = folder
    folder.next = shard.folders[hashed & shard.folder_mask]
    shard.folders[hashed & shard.folder_mask] = folder
    shard.folder_count += 1
    return folder


cdef bint make_room_for_folders(Shard *shard) noexcept:
    """Double the buckets if each has a folder. Without memory for more, the chains get longer."""
    cdef Folder **old = shard.folders
    cdef Folder *folder
    cdef Folder *following
    cdef Py_ssize_t at, size = 0 if old == NULL else shard.folder_mask + 1
    cdef Py_ssize_t grown = 2 * size or FIRST_FOLDERS
    if shard.folder_count < size:
        return True
    shard.folders = <Folder **>PyMem_RawCalloc(grown, sizeof(Folder *))
    if shard.folders == NULL:
        shard.folders = old
        return old != NULL
    shard.folder_mask = grown - 1
    for at in range(size):
        folder = old[at]
        while folder != NULL:
            following = folder.next
            folder.next = shard.folders[folder.hash & shard.folder_mask]
            shard.folders[folder.hash & shard.folder_mask] = folder
            folder = following
    PyMem_RawFree(old)
    return True


cdef bint put_into_folder(Shard *shard, Cell *cell) noexcept:
    """Put a new cell into the folder of its key, if the key has one; False if there is no memory."""
    cdef Folder *folder
    cdef Cell **grown
    cdef uint32_t room
    cdef Py_ssize_t length = folder_length(cell.key)
    if length == 0:
        return True
    folder = find_or_make_folder(shard, cell.key, length)
    if folder == NULL:
        return False
    if folder.count == folder.room:
        room = 2 * folder.room or FIRST_IN_FOLDER
        grown = <Cell **>PyMem_RawRealloc(folder.cells, room * sizeof(Cell *))
        if grown == NULL:
            drop_empty_folders(shard, folder)
            return False
        folder.cells, folder.room = grown, room
    cell.folder_at = folder.count
    folder.cells[folder.count] = cell
    folder.count += 1
    return True


cdef void take_out_of_folder(Shard *shard, Cell *cell) noexcept:
    cdef Folder *folder = folder_of(shard, cell.key)
    cdef Cell *last
    if folder != NULL:
        folder.count -= 1
        last = folder.cells[folder.count]
        folder.cells[cell.folder_at] = last
        last.folder_at = cell.folder_at
        drop_empty_folders(shard, folder)


cdef void drop_empty_folders(Shard *shard, Folder *folder) noexcept:
    """Free the folder and those around it, as far as they are empty."""
    cdef Folder *parent
    cdef Folder **link
    while folder != NULL and folder.count == 0 and folder.children == NULL:
        parent = folder.parent
        if folder.next_sibling != NULL:
            folder.next_sibling.previous_sibling = folder.previous_sibling
        if folder.previous_sibling != NULL:
            folder.previous_sibling.next_sibling = folder.next_sibling
        elif parent != NULL:
            parent.children = folder.next_sibling
        link = &shard.folders[folder.hash & shard.folder_mask]
        while link[0] != folder:
            link = &link[0].next
        link[0] = folder.next
        shard.folder_count -= 1
        free_folder(folder)
        folder = parent
    if shard.folder_count == 0:
        PyMem_RawFree(shard.folders)
        shard.folders = NULL


cdef inline void free_folder(Folder *folder) noexcept:
    PyMem_RawFree(folder.cells)
    PyMem_RawFree(folder)


cdef void free_folders(Shard *shard) noexcept:
    cdef Folder *folder
    cdef Py_ssize_t at
    if shard.folders != NULL:
        for at in range(shard.folder_mask + 1):
            while shard.folders[at] != NULL:
                folder = shard.folders[at]
                shard.folders[at] = folder.next
                free_folder(folder)
        PyMem_RawFree(shard.folders)


cdef inline Folder *next_folder(const Folder *root, const Folder *folder) noexcept:
    """The folder after this one, among those in the root; NULL after the last one."""
    if folder.children != NULL:
        return folder.children
    while folder != root:
        if folder.next_sibling != NULL:
            return folder.next_sibling
        folder = folder.parent
    return NULL
