/* The payload's entry: an interpreter that can run the wrapper and nothing else.
 *
 * Every module is in this one file: Python's C modules and ours by `modules.h`, the wrapper's own code frozen by
 * `frozen.h`, both written by `build`. The interpreter is brought up to its core phase only, which ends before paths,
 * site, codecs and standard streams, of which the wrapper uses none; so it reads no file, no PYTHON* variable and no
 * locale, and starts wherever it lies. Python 3.11 (Python/pylifecycle.c: pyinit_core).
 */
#include "core.h"
#include <sys/auxv.h>
#include <unistd.h>

#include "frozen.h"
#include "modules.h"

#define EX_SOFTWARE 70

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
    PyPreConfig before;
    PyPreConfig_InitIsolatedConfig(&before);
    before.utf8_mode = 1;
    PyStatus status = Py_PreInitialize(&before);
    if (PyStatus_Exception(status))
        return fail("pre-initialisation");
    PyConfig config;
    PyConfig_InitIsolatedConfig(&config);
    config.site_import = 0;
    config.install_signal_handlers = 0; /* the wrapper installs its own */
    config.write_bytecode = 0;
    config._init_main = 0;
    status = Py_InitializeFromConfig(&config);
    if (PyStatus_Exception(status))
        return fail(status.err_msg ? status.err_msg : "initialisation");
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
