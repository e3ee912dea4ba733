/* What CPython's core expects of the program it is linked into: frozen modules, the ends of modules that are not here, and
 * a search for the library, of which there is none.
 */
#include <Python.h>
#include "pycore_import.h"

int _Py_Deepfreeze_Init(void) { return 0; }
void _Py_Deepfreeze_Fini(void) { }
void _PyIO_Fini(void) { }
PyStatus _PyConfig_InitPathConfig(PyConfig *config, int compute) { (void)config; (void)compute; return PyStatus_Ok(); }

static const struct _frozen no_modules[] = {{0}};
static const struct _module_alias no_aliases[] = {{0}};
const struct _frozen *_PyImport_FrozenStdlib = no_modules;
const struct _frozen *_PyImport_FrozenTest = no_modules;
const struct _module_alias *_PyImport_FrozenAliases = no_aliases;
