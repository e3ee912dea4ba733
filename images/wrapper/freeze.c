/* Compiles one Python module with the payload's own interpreter and writes its code object, marshalled.
 *
 *     freeze MODULE SOURCE OUTPUT
 *
 * `build` runs it once for each module that goes into the payload. No standard library is needed: nothing is imported. A
 * process of its own for each module, since the marshalled form depends on which strings are interned by then.
 */
#include "core.h"
#include <marshal.h>

const struct _frozen *_PyImport_FrozenBootstrap = no_modules;
const struct _frozen *PyImport_FrozenModules = no_modules;
struct _inittab _PyImport_Inittab[] = {{0}};

static void start(void)
{
    PyConfig config;
    PyConfig_InitIsolatedConfig(&config);
    config.site_import = 0;
    config.use_hash_seed = 1; /* the order of a set of constants is the same in every build */
    config.hash_seed = 0;
    config._install_importlib = 0;
    config._init_main = 0;
    PyStatus status = Py_InitializeFromConfig(&config);
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
}

static char *text_of(const char *path)
{
    FILE *file = fopen(path, "rb");
    char *text = NULL;
    size_t length = 0, size = 0;
    if (!file)
        return NULL;
    for (;;) {
        if (size - length < 65536) {
            size += 1 << 20;
            text = realloc(text, size);
            if (!text)
                return NULL;
        }
        size_t got = fread(text + length, 1, size - length - 1, file);
        if (!got)
            break;
        length += got;
    }
    fclose(file);
    text[length] = 0;
    return text;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fputs("usage: freeze MODULE SOURCE OUTPUT\n", stderr);
        return 64;
    }
    start();
    char *text = text_of(argv[2]);
    if (!text) {
        fprintf(stderr, "freeze: cannot read %s\n", argv[2]);
        return 1;
    }
    PyObject *name = PyUnicode_FromFormat("<frozen %s>", argv[1]);
    PyObject *code = name ? Py_CompileStringObject(text, name, Py_file_input, NULL, 0) : NULL;
    PyObject *marshalled = code ? PyMarshal_WriteObjectToString(code, Py_MARSHAL_VERSION) : NULL;
    if (!marshalled) {
        PyErr_Print();
        return 1;
    }
    FILE *output = fopen(argv[3], "wb");
    size_t size = (size_t)PyBytes_GET_SIZE(marshalled);
    if (!output || fwrite(PyBytes_AS_STRING(marshalled), 1, size, output) != size || fclose(output)) {
        fprintf(stderr, "freeze: cannot write %s\n", argv[3]);
        return 1;
    }
    return 0;
}
