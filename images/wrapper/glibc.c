/* What the form with glibc (2.36) has of its own.
 *
 * Names are looked up in /etc/hosts and by DNS, whatever /etc/nsswitch.conf says: any other way is a shared object of the
 * image, which a static program would load with a second C library.
 */
#include <nss.h>

__attribute__((constructor)) static void look_up_without_modules(void) { __nss_configure_lookup("hosts", "files dns"); }
