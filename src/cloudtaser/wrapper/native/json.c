/* The tree of a JSON document (RFC 8259), by offsets: what `jsontext` says of it, in one pass.
 *
 * It reads the caller's buffer, makes strings of members' names and of nothing else, and keeps nothing. `jsontext` has the
 * same in Python, for where this module is missing, and the words for what is wrong; the tests hold both against each other.
 */

#include "native.h"

#include <string.h>

#define MAX_NESTING 64 /* this and MAX_ITEMS as in jsontext.py */
#define MAX_ITEMS 64

enum node_kind { STRING, NUMBER, TRUE, FALSE, NOTHING, OBJECT, ARRAY };

struct reader {
    const unsigned char *data;
    Py_ssize_t at, end, left;
    PyObject *node_type;
    int wrong; /* what is wrong with the document; 0 where the error is Python's */
    Py_ssize_t where;
};

static PyObject *read_value(struct reader *reader, int depth, int nesting);

/* -1, always. */
static int
fail(struct reader *reader, int wrong, Py_ssize_t where)
{
    reader->wrong = wrong;
    reader->where = where;
    return -1;
}

static void
skip_blank(struct reader *reader)
{
    for (; reader->at < reader->end; reader->at++)
        switch (reader->data[reader->at]) {
        case ' ': case '\n': case '\r': case '\t':
            break;
        default:
            return;
        }
}

/* The next byte, or -1 where the document ends too early. */
static int
peek(struct reader *reader)
{
    return reader->at < reader->end ? reader->data[reader->at] : fail(reader, ENDS_EARLY, reader->at);
}

/* Go behind `wanted`, which has to be there. 0, or -1. */
static int
pass(struct reader *reader, int wanted, int trouble)
{
    int byte = peek(reader);
    if (byte != wanted)
        return byte < 0 ? -1 : fail(reader, trouble, reader->at);
    reader->at++;
    skip_blank(reader);
    return 0;
}

/* A node from `start` to `end`, or None below the depth to which they are kept. */
static PyObject *
node(const struct reader *reader, int depth, enum node_kind kind, Py_ssize_t start, Py_ssize_t end)
{
    if (depth < 0)
        Py_RETURN_NONE;
    return PyObject_CallFunction(reader->node_type, "inn", (int)kind, start, end);
}

static int
pass_digits(struct reader *reader)
{
    Py_ssize_t first = reader->at;
    while (reader->at < reader->end && reader->data[reader->at] >= '0' && reader->data[reader->at] <= '9')
        reader->at++;
    return reader->at > first ? 0 : fail(reader, NO_DIGIT, first);
}

static int
pass_number(struct reader *reader)
{
    int byte;
    if (reader->data[reader->at] == '-')
        reader->at++;
    if ((byte = peek(reader)) < 0)
        return -1;
    if (byte == '0')
        reader->at++;
    else if (pass_digits(reader) < 0)
        return -1;
    if (reader->at < reader->end && reader->data[reader->at] == '.') {
        reader->at++;
        if (pass_digits(reader) < 0)
            return -1;
    }
    if (reader->at >= reader->end || (reader->data[reader->at] | 32) != 'e')
        return 0;
    reader->at++;
    if ((byte = peek(reader)) < 0)
        return -1;
    if (byte == '+' || byte == '-')
        reader->at++;
    return pass_digits(reader);
}

/* Go from a quote behind the one that closes the string. 0, or -1. */
static int
pass_string(struct reader *reader)
{
    Py_ssize_t close = cloudtaser_string_end(reader->data, reader->at + 1, reader->end);
    if (close < 0)
        return fail(reader, (int)close, reader->at + 1);
    reader->at = close + 1;
    return 0;
}

/* The text of a checked name. One with escapes is decoded in a copy: names are not changed in place. */
static PyObject *
name_of(const unsigned char *start, size_t size)
{
    struct memory *copy;
    PyObject *name;
    if (!memchr(start, '\\', size))
        return PyUnicode_DecodeUTF8((const char *)start, (Py_ssize_t)size, NULL);
    copy = cloudtaser_memory(size);
    if (!copy)
        return NULL;
    memcpy(copy->at, start, size);
    name = PyUnicode_DecodeUTF8((const char *)copy->at, cloudtaser_unescape(copy->at, copy->at + size) - copy->at, NULL);
    Py_DECREF(copy);
    return name;
}

/* One member of an object into `members`. 0, or -1. */
static int
read_member(struct reader *reader, PyObject *members, int depth, int nesting)
{
    Py_ssize_t quote = reader->at;
    PyObject *name = NULL, *value = NULL;
    int byte = peek(reader), is_known, done = -1;

    if (byte != '"')
        return byte < 0 ? -1 : fail(reader, NO_NAME, quote);
    if (pass_string(reader) < 0 || !(name = name_of(reader->data + quote + 1, (size_t)(reader->at - quote - 2))))
        return -1;
    is_known = PyDict_Contains(members, name);
    if (is_known > 0)
        fail(reader, NAME_TWICE, quote);
    skip_blank(reader);
    if (is_known == 0 && pass(reader, ':', NO_COLON) == 0 && (value = read_value(reader, depth - 1, nesting + 1)))
        done = PyDict_SetItem(members, name, value);
    Py_XDECREF(value);
    Py_DECREF(name);
    return done;
}

/* One value of an array into `items`, where there is still room for it. 0, or -1. */
static int
read_item(struct reader *reader, PyObject *items, int depth, int nesting)
{
    int is_kept = depth > 0 && PyList_GET_SIZE(items) < MAX_ITEMS;
    PyObject *value = read_value(reader, is_kept ? depth - 1 : -1, nesting + 1);
    int done = !value ? -1 : is_kept ? PyList_Append(items, value) : 0;
    Py_XDECREF(value);
    return done;
}

/* An object or an array, whose opening bracket is next. */
static PyObject *
read_values(struct reader *reader, int depth, int nesting)
{
    Py_ssize_t start = reader->at;
    int is_object = reader->data[start] == '{', closing = is_object ? '}' : ']', byte, is_first = 1;
    PyObject *values, *made = NULL;

    if (nesting >= MAX_NESTING) {
        fail(reader, TOO_DEEP, start);
        return NULL;
    }
    if (!(values = is_object ? PyDict_New() : PyList_New(0)))
        return NULL;
    reader->at++;
    skip_blank(reader);
    for (; (byte = peek(reader)) != closing; is_first = 0) {
        if (byte < 0 || (!is_first && pass(reader, ',', NO_COMMA) < 0) ||
            (is_object ? read_member(reader, values, depth, nesting) : read_item(reader, values, depth, nesting)) < 0)
            goto done;
        skip_blank(reader);
    }
    reader->at++;
    if (is_object && depth <= 0)
        PyDict_Clear(values); /* they were counted only, to find one that occurs twice */
    made = node(reader, depth, is_object ? OBJECT : ARRAY, start, reader->at);
    if (made && depth >= 0 && PyObject_SetAttrString(made, is_object ? "members" : "items", values) < 0)
        Py_CLEAR(made);
done:
    Py_DECREF(values);
    return made;
}

static PyObject *
read_word(struct reader *reader, int depth)
{
    static const struct {
        const char *text;
        enum node_kind kind;
    } words[] = {{"true", TRUE}, {"false", FALSE}, {"null", NOTHING}};
    Py_ssize_t start = reader->at;
    for (size_t index = 0; index < sizeof words / sizeof *words; index++) {
        Py_ssize_t length = (Py_ssize_t)strlen(words[index].text);
        if (reader->end - start >= length && memcmp(reader->data + start, words[index].text, (size_t)length) == 0) {
            reader->at += length;
            return node(reader, depth, words[index].kind, start, reader->at);
        }
    }
    fail(reader, NO_VALUE, start);
    return NULL;
}

/* The value that is next; None where it is nobody's to keep, NULL for what is wrong. */
static PyObject *
read_value(struct reader *reader, int depth, int nesting)
{
    Py_ssize_t start = reader->at;
    int byte = peek(reader);

    if (byte < 0)
        return NULL;
    if (--reader->left < 0) {
        fail(reader, TOO_MANY, start);
        return NULL;
    }
    if (byte == '"')
        return pass_string(reader) < 0 ? NULL : node(reader, depth, STRING, start + 1, reader->at - 1);
    if (byte == '{' || byte == '[')
        return read_values(reader, depth, nesting);
    if (byte == '-' || (byte >= '0' && byte <= '9'))
        return pass_number(reader) < 0 ? NULL : node(reader, depth, NUMBER, start, reader->at);
    return read_word(reader, depth);
}

PyDoc_STRVAR(parse_doc,
             "parse_json(data, start, end, depth, most, Node): the tree of the document in [start, end), members kept\n"
             "`depth` levels deep, of `Node(kind, start, end)` with `members` or `items`; or a pair of a negative\n"
             "number, which says what is wrong (that of more than `most` values among them), and the offset of it.");

static PyObject *
parse_json(PyObject *module, PyObject *args)
{
    Py_buffer view;
    struct reader reader = {0};
    PyObject *tree = NULL;
    int depth;

    if (!PyArg_ParseTuple(args, "y*nninO:parse_json", &view, &reader.at, &reader.end, &depth, &reader.left,
                          &reader.node_type))
        return NULL;
    if (reader.at < 0 || reader.at > reader.end || reader.end > view.len) {
        PyErr_SetString(PyExc_IndexError, "beyond the buffer");
    } else {
        reader.data = view.buf;
        skip_blank(&reader);
        tree = read_value(&reader, depth, 0);
        skip_blank(&reader);
        if (tree && reader.at != reader.end) {
            fail(&reader, TEXT_BEHIND, reader.at);
            Py_CLEAR(tree);
        }
    }
    PyBuffer_Release(&view);
    return tree || !reader.wrong ? tree : Py_BuildValue("(in)", reader.wrong, reader.where);
}

static PyMethodDef methods[] = {
    {"parse_json", parse_json, METH_VARARGS, parse_doc},
    {NULL, NULL, 0, NULL},
};

int
cloudtaser_add_json(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}
