/* Strings from bytes that need not end with a zero, or are escaped. */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include <stddef.h>

/* A copy of len bytes with a zero behind them; a zero among them ends the string earlier. NULL: no memory. strndup
 * looks for the zero beyond len where a sanitizer checks strings strictly. Any thread. */
char *text_copy(const void *bytes, size_t len);
/* Undo the octal escapes (\040) of a field of /proc/PID/mountinfo, in place. */
void text_unescape_octal(char *s);

#endif
