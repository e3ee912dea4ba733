/* The payload's entry: an interpreter that can run the wrapper and nothing else.
 *
 * Every module is in this one file: Python's C modules and ours by `modules.h`, the wrapper's own code frozen by
 * `frozen.h`, both written by `build`. The interpreter is brought up to its core phase only, which ends before paths,
 * site, codecs and standard streams, of which the wrapper uses none; so it reads no file, no PYTHON* variable and no
 * locale, and starts wherever it lies. Python 3.11 (Python/pylifecycle.c: pyinit_core).
 */
#include "core.h"
#include "pycore_interp.h"
#include "pycore_pystate.h"
#include <link.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

#include "frozen.h"
#include "modules.h"

#ifndef MAP_POPULATE
#define MAP_POPULATE 0
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#define EX_SOFTWARE 70
/* Objects that can hold others, before the garbage collector looks at them: more than there are when the application starts,
 * so that it never runs before that, and few enough to be no burden if all were garbage. */
#define COLLECT_AFTER 20000

extern int _PySignal_Init(int);

const struct _frozen *_PyImport_FrozenBootstrap = bootstrap_modules;
const struct _frozen *PyImport_FrozenModules = wrapper_modules;

static int fail(const char *what)
{
    static const char before[] = "cloudtaser-wrapper: the interpreter cannot start: ";
    (void)!write(2, before, sizeof before - 1);
    (void)!write(2, what, strlen(what));
    (void)!write(2, "\n", 1);
    return EX_SOFTWARE;
}

/* A megabyte for Python's objects. The first is used to the end before the application starts: one call gets its pages,
 * which would take two hundred faults. */
static void *get_arena(void *context, size_t size)
{
    static int is_first = 1;
    void *arena = mmap(NULL, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | (is_first ? MAP_POPULATE : 0), -1, 0);
    (void)context;
    is_first = 0;
    return arena == MAP_FAILED ? NULL : arena;
}

static void give_arena_back(void *context, void *arena, size_t size)
{
    (void)context;
    munmap(arena, size);
}

/* The interpreter's own data, most of which its start writes to: all of it by one call. Where that is refused, faults bring
 * it. What the C library closed once it was relocated is left out. */
static void touch_data(void)
{
    const ElfW(Phdr) *part = (const void *)getauxval(AT_PHDR), *last = part + getauxval(AT_PHNUM);
    uintptr_t page = getauxval(AT_PAGESZ), from = 0, to = 0, closed = 0;
    for (; part && part < last; part++) {
        if (part->p_type == PT_LOAD && part->p_flags & PF_W) {
            from = part->p_vaddr;
            to = from + part->p_memsz;
        } else if (part->p_type == PT_GNU_RELRO) {
            closed = part->p_vaddr + part->p_memsz;
        }
    }
    from = (closed > from ? closed : from) / page * page;
    if (from < to)
        madvise((void *)from, to - from, MADV_POPULATE_WRITE);
}

static int set_arguments(int count, char **arguments)
{
    PyObject *list = PyList_New(count);
    if (!list)
        return -1;
    for (int index = 0; index < count; index++) {
        PyObject *text = PyUnicode_DecodeUTF8(arguments[index], (Py_ssize_t)strlen(arguments[index]), "surrogateescape");
        if (!text)
            return -1;
        PyList_SET_ITEM(list, index, text);
    }
    int failed = PySys_SetObject("argv", list);
    Py_DECREF(list);
    return failed;
}

/* `sys.executable`: where the payload lies, as the kernel knows it, which needs no /proc. */
static int set_executable(void)
{
    const char *name = (const char *)getauxval(AT_EXECFN);
    char *whole = name ? realpath(name, NULL) : NULL;
    const char *path = whole ? whole : name ? name : "";
    PyObject *text = PyUnicode_DecodeUTF8(path, (Py_ssize_t)strlen(path), "surrogateescape");
    free(whole);
    int failed = text ? PySys_SetObject("executable", text) : -1;
    Py_XDECREF(text);
    return failed;
}

int main(int argc, char **argv)
{
    PyObjectArenaAllocator arenas = {NULL, get_arena, give_arena_back};
    touch_data();
    PyPreConfig before;
    PyPreConfig_InitIsolatedConfig(&before);
    before.utf8_mode = 1;
    PyStatus status = Py_PreInitialize(&before);
    if (PyStatus_Exception(status))
        return fail("pre-initialisation");
    PyObject_SetArenaAllocator(&arenas);
    PyConfig config;
    PyConfig_InitIsolatedConfig(&config);
    config.site_import = 0;
    config.install_signal_handlers = 0; /* the wrapper installs its own */
    config.write_bytecode = 0;
    config._init_main = 0;
    status = Py_InitializeFromConfig(&config);
    if (PyStatus_Exception(status))
        return fail(status.err_msg ? status.err_msg : "initialisation");
    _PyInterpreterState_GET()->gc.generations[0].threshold = COLLECT_AFTER;
    if (_PySignal_Init(0) < 0 || set_arguments(argc, argv) < 0 || set_executable() < 0)
        return fail("no memory");
    PyObject *entry = PyImport_ImportModule("cloudtaser.wrapper.__main__"); /* leaves by _exit */
    if (!entry) {
        PyObject *kind, *value, *at;
        PyErr_Fetch(&kind, &value, &at);
        PyObject *text = value ? PyObject_Str(value) : NULL;
        const char *what = text ? PyUnicode_AsUTF8(text) : NULL;
        return fail(what ? what : "its main module raised an exception");
    }
    return fail("its main module came back");
}
