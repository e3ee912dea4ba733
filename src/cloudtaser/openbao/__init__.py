"""OpenBao: client, layout of what cloudtaser keeps there, policies, logins, registrations."""
