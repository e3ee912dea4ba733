/* Loops over secret bytes that would be slow in Python: UTF-8, JSON strings, whole values.
 *
 * `jsontext` and `buffers` call them and have the same in Python, for where this module is missing; the tests hold both
 * against each other. They read and write the caller's buffer, keep nothing, and copy nothing anywhere else.
 */

#include "native.h"

#include <string.h>

/* RFC 3629: no overlong form, no surrogate, nothing above U+10FFFF. */
static int
is_utf8(const unsigned char *at, const unsigned char *end)
{
    while (at < end) {
        unsigned char byte = *at++, low = 0x80, high = 0xBF;
        int more;
        if (byte < 0x80)
            continue;
        if (byte >= 0xC2 && byte <= 0xDF)
            more = 1;
        else if ((byte & 0xF0) == 0xE0)
            more = 2, low = byte == 0xE0 ? 0xA0 : 0x80, high = byte == 0xED ? 0x9F : 0xBF;
        else if (byte >= 0xF0 && byte <= 0xF4)
            more = 3, low = byte == 0xF0 ? 0x90 : 0x80, high = byte == 0xF4 ? 0x8F : 0xBF;
        else
            return 0;
        for (; more; more--, low = 0x80, high = 0xBF)
            if (at == end || *at < low || *at > high)
                return 0;
            else
                at++;
    }
    return 1;
}

static int
unit(const unsigned char *at)
{
    int value = 0;
    for (int index = 0; index < 4; index++) {
        unsigned char byte = at[index], lower = byte | 32;
        if (byte >= '0' && byte <= '9')
            value = value << 4 | (byte - '0');
        else if (lower >= 'a' && lower <= 'f')
            value = value << 4 | (lower - 'a' + 10);
        else
            return -1;
    }
    return value;
}

/* Length of the escape at `at`, or what is wrong with it. */
static int
escape_length(const unsigned char *at, const unsigned char *end)
{
    int first, second;
    if (end - at < 2)
        return ENDS_EARLY;
    if (at[1] != 'u')
        return at[1] && strchr("\"\\/bfnrt", at[1]) ? 2 : UNKNOWN_ESCAPE;
    if (end - at < 6)
        return ENDS_EARLY;
    first = unit(at + 2);
    if (first < 0)
        return NO_HEX;
    if (first < 0xD800 || first >= 0xE000)
        return 6;
    if (first >= 0xDC00)
        return HALF_PAIR;
    if (end - at < 12)
        return end - at > 6 && (at[6] != '\\' || (end - at > 7 && at[7] != 'u')) ? HALF_PAIR : ENDS_EARLY;
    if (at[6] != '\\' || at[7] != 'u')
        return HALF_PAIR;
    second = unit(at + 8);
    if (second < 0)
        return NO_HEX;
    return second >= 0xDC00 && second < 0xE000 ? 12 : HALF_PAIR;
}

static int
range(const Py_buffer *view, Py_ssize_t start, Py_ssize_t end)
{
    if (start >= 0 && start <= end && end <= view->len)
        return 1;
    PyErr_SetString(PyExc_IndexError, "beyond the buffer");
    return 0;
}

Py_ssize_t
cloudtaser_string_end(const unsigned char *data, Py_ssize_t start, Py_ssize_t end)
{
    const unsigned char *at = data + start, *last = data + end;
    int is_ascii = 1;
    while (at < last) {
        if (*at == '"')
            return is_ascii || is_utf8(data + start, at) ? at - data : NOT_UTF8;
        if (*at < 0x20)
            return CONTROL;
        is_ascii &= *at < 0x80;
        int length = *at == '\\' ? escape_length(at, last) : 1;
        if (length < 0)
            return length;
        at += length;
    }
    return ENDS_EARLY;
}

PyDoc_STRVAR(string_end_doc,
             "string_end(data, start, end): offset of the quote that closes the JSON string whose content begins at\n"
             "`start`, everything before it checked; or a negative number that says what is wrong.");

static PyObject *
string_end(PyObject *module, PyObject *args)
{
    Py_buffer view;
    Py_ssize_t start, end, result = -1;
    int is_inside;
    if (!PyArg_ParseTuple(args, "y*nn:string_end", &view, &start, &end))
        return NULL;
    is_inside = range(&view, start, end);
    if (is_inside)
        result = cloudtaser_string_end(view.buf, start, end);
    PyBuffer_Release(&view);
    return is_inside ? PyLong_FromSsize_t(result) : NULL;
}

static unsigned char *
put(unsigned char *at, unsigned int point)
{
    if (point < 0x80) {
        *at++ = (unsigned char)point;
    } else if (point < 0x800) {
        *at++ = (unsigned char)(0xC0 | point >> 6);
        *at++ = (unsigned char)(0x80 | (point & 0x3F));
    } else if (point < 0x10000) {
        *at++ = (unsigned char)(0xE0 | point >> 12);
        *at++ = (unsigned char)(0x80 | (point >> 6 & 0x3F));
        *at++ = (unsigned char)(0x80 | (point & 0x3F));
    } else {
        *at++ = (unsigned char)(0xF0 | point >> 18);
        *at++ = (unsigned char)(0x80 | (point >> 12 & 0x3F));
        *at++ = (unsigned char)(0x80 | (point >> 6 & 0x3F));
        *at++ = (unsigned char)(0x80 | (point & 0x3F));
    }
    return at;
}

static unsigned char
simple(unsigned char letter)
{
    switch (letter) {
    case 'b': return '\b';
    case 'f': return '\f';
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    default: return letter;
    }
}

unsigned char *
cloudtaser_unescape(unsigned char *start, unsigned char *end)
{
    unsigned char *read = memchr(start, '\\', (size_t)(end - start)), *write;
    read = write = read ? read : end;
    while (read < end) {
        if (*read != '\\') {
            *write++ = *read++;
            continue;
        }
        int length = escape_length(read, end);
        if (length < 0)
            return NULL;
        if (length == 2) {
            *write++ = simple(read[1]);
        } else {
            unsigned int point = (unsigned int)unit(read + 2);
            if (length == 12)
                point = 0x10000 + ((point - 0xD800) << 10) + ((unsigned int)unit(read + 8) - 0xDC00);
            write = put(write, point);
        }
        read += length;
    }
    cloudtaser_wipe(write, (size_t)(end - write));
    return write;
}

PyDoc_STRVAR(unescape_doc,
             "unescape(data, start, end): decode the JSON string in [start, end) in place; its new end. What it no\n"
             "longer needs is zeroed. Raises ValueError for a string that `string_end` would not have let through.");

static PyObject *
unescape(PyObject *module, PyObject *args)
{
    Py_buffer view;
    Py_ssize_t start, end;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "w*nn:unescape", &view, &start, &end))
        return NULL;
    if (range(&view, start, end)) {
        unsigned char *data = view.buf, *last = cloudtaser_unescape(data + start, data + end);
        if (last)
            result = PyLong_FromSsize_t(last - data);
        else
            PyErr_SetString(PyExc_ValueError, "not a checked JSON string");
    }
    PyBuffer_Release(&view);
    return result;
}

static PyMethodDef methods[] = {
    {"string_end", string_end, METH_VARARGS, string_end_doc},
    {"unescape", unescape, METH_VARARGS, unescape_doc},
    {NULL, NULL, 0, NULL},
};

int
cloudtaser_add_text(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}
