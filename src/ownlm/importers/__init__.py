"""Histories out of what already lies on people's disks: repositories, mailboxes, LaMP's files."""
